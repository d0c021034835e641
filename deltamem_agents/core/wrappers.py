"""Modules that stand in for a model's own, under the same names, and can be taken out again. Knows nothing of memory.

A wrapper shares the ``__dict__`` of the module it wraps, so the two always have the same parameters, buffers, children,
hooks and attributes. Its class derives from the wrapped module's. So

- no key of ``state_dict``, ``named_parameters`` or ``named_modules`` changes, and ``isinstance`` still holds: PEFT
  adapts a wrapped linear layer as it does any other;
- hooks and patches that others put on a wrapper stay on the module when the wrapper is taken out;
- a copy or a pickle of a wrapper contains only the module that it wraps.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Self

from torch import nn


class Wrapper(nn.Module):
    """A module in front of another; its subclasses define ``forward`` and reach the other's through ``delta_inner``.

    Made by `wrap`. ``delta_site`` is what the subclass needs to know.
    """

    # Outside of `__dict__`, which is the wrapped module's.
    __slots__ = ("_delta_wrapped", "delta_site")
    _delta_wrapped: tuple[nn.Module]
    delta_site: Any

    def delta_inner(self, *args: Any, **kwargs: Any) -> Any:
        """Forward of the wrapped module, without hooks: those ran, or will run, around the wrapper's forward."""
        module = self._delta_wrapped[0]
        return super().forward(*args, **kwargs) if self.__dict__ is module.__dict__ else module.forward(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As in torch."""
        self._delta_wrapped[0].training = mode
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return copy.deepcopy(self._delta_wrapped[0], memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Protocol 1 is the one whose result may stand for an object of another class.
        found: Any = self._delta_wrapped[0].__reduce_ex__(1)
        make, args, *rest = found
        if rest and isinstance(rest[0], dict) and "_parameters" in rest[0]:
            parameters = {name: _compact(each) for name, each in rest[0]["_parameters"].items()}
            rest[0] = {**rest[0], "_parameters": parameters}
        return make, args, *rest


def wrap(parent: nn.Module, name: str, role: type[Wrapper], site: object) -> Wrapper:
    """Put a wrapper in the place of ``parent``'s child ``name``.

    Args:
        role: The wrapper's forward.
        site: Becomes the wrapper's ``delta_site``.
    """
    module: nn.Module = getattr(parent, name)
    contents = module.__dict__
    patched = "forward" in contents  # by other code; it would hide the wrapper's
    like = type(module)
    if isinstance(module, role):  # one that `unwrap` had to leave there
        if not patched:
            module.delta_site = site
            return module
        like = type(module._delta_wrapped[0])
    kind = _derived(role, like)  # type: ignore[arg-type]
    made = kind.__new__(kind)
    if patched:
        contents = {key: each for key, each in contents.items() if key != "forward"}
    object.__setattr__(made, "__dict__", contents)
    made._delta_wrapped = (module,)  # in a tuple, as `nn.Module` makes a module attribute a child
    made.delta_site = site
    setattr(parent, name, made)
    return made


def unwrap(roots: Iterable[nn.Module], wrappers: Iterable[Wrapper]) -> None:
    """Put the wrapped modules back wherever the wrappers are now found.

    A wrapper stays where it is if no walk through ``roots`` finds it (it was replaced, or another library's wrapper
    hides it), or if other code has changed its class, as parametrisations do.
    """
    ours = {id(each) for each in wrappers if _unchanged(each)}
    for root in roots:
        for parent in list(root.modules()):
            for name, child in list(parent._modules.items()):
                if isinstance(child, Wrapper) and id(child) in ours:
                    setattr(parent, name, child._delta_wrapped[0])


def _unchanged(wrapper: Wrapper) -> bool:
    """Whether its class is unchanged, and nothing was patched onto it that the wrapped module would lack."""
    bases = type(wrapper).__bases__
    derived = len(bases) == 2 and issubclass(bases[0], Wrapper)
    return derived and (wrapper.__dict__ is wrapper._delta_wrapped[0].__dict__ or "forward" not in wrapper.__dict__)


def _compact(parameter: nn.Parameter | None) -> nn.Parameter | None:
    """The parameter, or a copy if it is a view of a larger buffer, all of which would be pickled."""
    if type(parameter) is not nn.Parameter or parameter.untyped_storage().nbytes() == parameter.nbytes:
        return parameter
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


@cache
def _derived(role: type[Wrapper], wrapped: type[nn.Module]) -> type[Wrapper]:
    """``role`` in front of a class, such as `DeltaLinear`."""
    name = f"Delta{wrapped.__name__}"
    return types.new_class(name, (role, wrapped), exec_body=lambda body: body.update(__module__=__name__))
