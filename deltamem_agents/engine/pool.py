"""States on the device, one slot each. Agents move in when they are used, and out by least recent use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from deltamem_agents.core import State
from deltamem_agents.errors import ConfigError, StateMismatchError, shown


class StatePool:
    """A fixed number of slots. Used in the engine's thread only.

    Args:
        like: A state without a batch axis.
        slots: How many states fit.

    Attributes:
        tensors: Module name to [slots, …] float32 on the device.
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
        self._held: dict[int, int] = {}  # slot -> requests that read it
        self._known: OrderedDict[Hashable, int] = OrderedDict()  # what a slot holds, least recently used first
        self.evictions = 0

    @property
    def bytes(self) -> int:
        """Of all slots."""
        return sum(each.nbytes for each in self.tensors.values())

    @property
    def used(self) -> int:
        """Slots that hold a state."""
        return self.slots - len(self._free)

    def take(self, key: Hashable | None, state: State) -> int | None:
        """A slot with this state, held until `give`; None where all are held by others.

        Args:
            key: What names this state and no other; None for a state that nobody shares.
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
        """A request has ended that held the slot."""
        self._held[slot] -= 1
        if self._held[slot]:
            return
        del self._held[slot]
        if self._known.pop(("once", slot), None) is not None:
            self._free.append(slot)

    def gather(self, slots: Sequence[int]) -> State:
        """Copies of these slots' states, batched."""
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
    """Refuse a state that does not fit, or holds values that are not finite.

    Raises:
        StateMismatchError: It does; the message names the agent, where it is known.
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
    """One row of a batched state, on the CPU."""
    return {name: each[index].cpu().clone() for name, each in tensors.items()}
