"""A curriculum of generated episodes: which mixture holds up to which share of a run. Read from a recipe's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.training.episodes import HeldOut, Mixture

# What is measured is unseen in all of these.
MEASURED = HeldOut(values=True, names=True, attributes=True, phrasings=True, rules=True)


@dataclass(frozen=True, slots=True)
class Phase:
    """A mixture and the share of the run, above 0 and up to 1, at which it ends."""

    until: float
    mixture: Mixture


class Curriculum:
    """The phases of a run.

    Args:
        given: A mixture as a JSON object, or a list of these, each but the last with ``until``. ``held_out`` of the
            last one says which axes are unseen where the adapter is measured; by default all.

    Raises:
        ConfigError: A field is unknown or out of range, or the phases do not follow one another.
    """

    def __init__(self, given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        listed = [given] if isinstance(given, Mapping) else given
        if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
            raise ConfigError(f"mixture is {shown(given)}; give an object of shares, or a list of these")
        self.phases = [_phase(each, last=number == len(listed)) for number, each in enumerate(listed, 1)]
        ends = [each.until for each in self.phases]
        if ends != sorted(set(ends)):
            raise ConfigError(f"mixture has phases until {shown(ends)}; give shares that rise to 1")
        self.measured = self.phases[-1].mixture
        if not self.measured.held_out.any:
            self.measured = replace(self.measured, held_out=MEASURED)
        self.phases = [Phase(each.until, replace(each.mixture, held_out=HeldOut())) for each in self.phases]

    def at(self, done: float) -> Mixture:
        """The mixture at a share of the run, from 0 to 1."""
        return next((each.mixture for each in self.phases if done < each.until), self.phases[-1].mixture)


def _phase(given: object, *, last: bool) -> Phase:
    if not isinstance(given, Mapping):
        raise ConfigError(f"a phase of mixture is {shown(given)}; give an object of shares")
    values = dict(given)
    until = values.pop("until", 1.0 if last else None)
    if isinstance(until, bool) or not isinstance(until, int | float) or not 0 < until <= 1:
        raise ConfigError(
            f"until of a phase of mixture is {shown(until)}; give a share of the run, above 0 and up to 1"
        )
    held_out = values.pop("held_out", {})
    arguments.known_fields(values, Mixture, "mixture")
    if not isinstance(held_out, Mapping) or not all(isinstance(each, bool) for each in held_out.values()):
        raise ConfigError(f"held_out of mixture is {shown(held_out)}; give an object of true and false")
    arguments.known_fields(held_out, HeldOut, "held_out of mixture")
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Phase(float(until), Mixture(**options, held_out=HeldOut(**held_out)))
