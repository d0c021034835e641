"""States on the device, one slot each. A state is loaded when used; the least recently used is evicted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from deltamem_agents.core import State
from deltamem_agents.errors import ConfigError, StateMismatchError, shown


class StatePool:
    """A fixed number of slots. Used only in the engine's thread.

    Args:
        like: A state without a batch axis.
        slots: Number of states that fit.

    Attributes:
        tensors: Module name to [slots, …] float32 on the device.

    Raises:
        ConfigError: The device has too little memory for the slots.
    """

    def __init__(self, like: State, slots: int, device: torch.device) -> None:
        self.slots = slots
        try:
            self.tensors = {
                name: torch.zeros(slots, *each.shape, dtype=torch.float32, device=device) for name, each in like.items()
            }
        except (RuntimeError, MemoryError) as error:
            size = slots * sum(each.numel() for each in like.values()) * 4
            raise ConfigError(
                f"slots is {slots}, for which {device} has too little memory: {size} bytes of states; give fewer"
            ) from error
        self._free = list(range(slots))
        self._held: dict[int, int] = {}  # slot -> number of requests that read it
        self._known: OrderedDict[Hashable, int] = OrderedDict()  # key of a state -> its slot, least recently used first
        self.evictions = 0

    @property
    def bytes(self) -> int:
        """Size of all slots in bytes."""
        return sum(each.nbytes for each in self.tensors.values())

    @property
    def used(self) -> int:
        """Number of slots that hold a state."""
        return self.slots - len(self._free)

    def take(self, key: Hashable | None, state: State) -> int | None:
        """Get a slot with this state, held until `give`; None if other requests hold all slots.

        Args:
            key: Names this state only; None for a state that is not shared.
        """
        slot = None if key is None else self._known.get(key)
        if slot is None:
            slot = self._make_room()
            if slot is None:
                return None
            try:
                for name, tensor in state.items():
                    self.tensors[name][slot].copy_(tensor)
                self._known[("once", slot) if key is None else key] = slot
            except BaseException:
                self._free.append(slot)
                raise
        if key is not None:
            self._known.move_to_end(key)
        self._held[slot] = self._held.get(slot, 0) + 1
        return slot

    def give(self, slot: int) -> None:
        """Release a slot when the request that held it has ended."""
        self._held[slot] -= 1
        if self._held[slot]:
            return
        del self._held[slot]
        if self._known.pop(("once", slot), None) is not None:
            self._free.append(slot)

    def put(self, slots: Sequence[int] | Tensor, states: State) -> None:
        """Replace the states of these slots, each held by one request only; ``states`` is batched."""
        index = torch.as_tensor(slots, device=self._device)
        for name, each in self.tensors.items():
            each.index_copy_(0, index, states[name].to(each.device))

    def gather(self, slots: Sequence[int]) -> State:
        """Copy the states of these slots, batched."""
        index = torch.tensor(slots, device=self._device)
        return {name: each.index_select(0, index) for name, each in self.tensors.items()}

    @property
    def _device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def _make_room(self) -> int | None:
        if self._free:
            return self._free.pop()
        for key, slot in self._known.items():
            if slot not in self._held:
                del self._known[key]
                self.evictions += 1
                return slot
        return None


def check_state(state: State, like: State, agent: str | None) -> None:
    """Check that a state fits the adapter and is finite.

    Raises:
        StateMismatchError: It does not fit or is not finite; the message names the agent, if known.
    """
    whose = "the state" if agent is None else f"the state of agent {agent!r}"
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise StateMismatchError(f"{whose} is {shown(state)}; give a mapping from module names to tensors")
    if state.keys() != like.keys():
        raise StateMismatchError(f"{whose} names other modules than this adapter; fold its journal again")
    for name, tensor in state.items():
        if tensor.shape != like[name].shape:
            raise StateMismatchError(
                f"{whose} has shape {list(tensor.shape)} at {name!r}, this adapter {list(like[name].shape)}; "
                "fold its journal again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise StateMismatchError(f"{whose} holds values that are not finite; fold its journal again")


def only(tensors: dict[str, Tensor], index: int) -> State:
    """Copy one row of a batched state to the CPU."""
    return {name: each[index].cpu().clone() for name, each in tensors.items()}
