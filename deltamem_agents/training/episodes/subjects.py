"""Who and what facts are about: the user, people, pets, projects, machines, organisations, places, events and things.

The patterns of names are ``a_pet``, ``a_project`` and so on in ``values.toml``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from deltamem_agents.training.episodes.values import draw_value
from deltamem_agents.training.episodes.vocabulary import pick, word, words

Pronoun = Literal["I", "she", "he", "they", "it"]
KINDS = ("me", "person", "pet", "project", "machine", "organisation", "place", "event", "thing")
_FORMS: dict[str, tuple[str, str, str]] = {  # pronoun: subject, object, possessive
    "I": ("I", "me", "my"),
    "she": ("she", "her", "her"),
    "he": ("he", "him", "his"),
    "they": ("they", "them", "their"),
    "it": ("it", "it", "its"),
}
_PLAIN = {
    "pet": "our dog|our cat|the hamster|my horse|the parrot",
    "project": "the website rewrite|the mobile app|the billing service|the data migration|the side project|the game",
    "machine": "the build server|my laptop|the NAS|the office printer|the router|the old desktop|my phone",
    "organisation": "my bank|the gym|the library|the garage|the school|the swimming club|the landlord's office",
    "place": "the office|the cabin|our flat|the garage|the guest room|the archive|the allotment hut|the summer house",
    "event": "the wedding|the conference|the team dinner|the school concert|the housewarming|the spring fair",
    "thing": "my bike|the new oven|the parcel|the drill|the tent|my camera|the sewing machine|the lawnmower",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fact is about.

    Args:
        kind: One of `KINDS`.
        name: As in the middle of a sentence: "me", "my sister", "Nora", "the build server".
        pronoun: What stands for it.
    """

    kind: str
    name: str
    pronoun: Pronoun

    def topic(self, noun: str) -> str:
        """What a noun of the subject's is called, such as "my sister's job" or "the port of the server in Leeds"."""
        if self.kind not in ("me", "person", "pet") and (len(self.name.split()) > 3 or self.name.endswith("s")):
            return f"the {noun} of {self.name}"
        return f"my {noun}" if self.kind == "me" else f"{_possessive(self.name)} {noun}"

    def forms(self, *, pronoun: bool = False) -> dict[str, str]:
        """What the slots of a phrase are filled with; ``pronoun`` names the subject by its pronoun only."""
        subject, possessed = self.name, _possessive(self.name)
        reflexive = _FORMS[self.pronoun][2]
        if pronoun or self.kind == "me":
            subject, object_, possessed = _FORMS[self.pronoun]
        else:
            object_ = subject
        plural = pronoun and self.pronoun == "they"
        me = self.kind == "me"
        return {
            "s": subject,
            "o": object_,
            "p": possessed,
            "p2": reflexive,
            "be": "am" if me else "are" if plural else "is",
            "was": "were" if plural else "was",
            "have": "have" if me or plural else "has",
            "do": "do" if me or plural else "does",
            "first": "1" if me or plural else "",
        }


ME = Subject("me", "me", "I")


def draw_subject(rng: random.Random, *, held_out: bool = False, kind: str = "", plain: float = 0.35) -> Subject:
    """A subject; its name, if it has one of its own, is held out or not.

    Args:
        kind: One of `KINDS`, or any.
        plain: Share of subjects without a name of their own, such as "my sister"; there are none if ``held_out``.
    """
    kind = kind or pick(rng, ("me", "me", "me", "person", "person", "person", *KINDS[2:]))
    if kind == "me":
        return ME
    bare = not held_out and rng.random() < plain
    if kind == "person":
        if bare or rng.random() < 0.15:
            pronoun, relation = word(rng, "relations").split(":")
            own = "" if bare else f" {draw_value(rng, 'first_name', held_out=held_out)}"
            return Subject(kind, f"my {relation}{own}", _pronoun(pronoun))
        form = pick(rng, ("first_name", "first_name", "full_name", "titled_name"))
        return Subject(kind, draw_value(rng, form, held_out=held_out), "they")
    if bare:
        return Subject(kind, pick(rng, _PLAIN[kind].split("|")), "it")
    return Subject(kind, draw_value(rng, f"a_{kind}", held_out=held_out), "it")


def related(rng: random.Random, subject: Subject, *, held_out: bool = False) -> Subject:
    """Another subject of the same kind, easily confused with this one."""
    kind = "person" if subject.kind == "me" else subject.kind
    for _ in range(100):
        other = draw_subject(rng, held_out=held_out, kind=kind)
        if other != subject:
            return other
    return ME


def relations() -> tuple[str, ...]:
    """The names of relations, such as "sister"."""
    return tuple(each.split(":")[1] for each in words("relations"))


def _pronoun(text: str) -> Pronoun:
    return "she" if text == "she" else "he" if text == "he" else "they"


def _possessive(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"
