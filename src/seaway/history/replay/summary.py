"""What came of a replay, in groups: a few numbers and samples, however many events there were.

Owns: by what events are grouped, and what is kept of each group. Pure. Guarantees: it can be
written down as JSON and read again, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from seaway.consumer.trials import Tried

_SAMPLES = 3
_GROUPS = 200
"""Failures that are each a kind of their own go into one group after so many."""


@dataclass(slots=True)
class Group:
    """Events that ended alike: ``then`` (empty where that was not asked) and ``now``, of one type,
    by an error of one kind from one line of code."""

    then: str
    now: str
    subject: str = ""
    error: str = ""
    place: str = ""
    differs: bool = False
    events: int = 0
    said: str = ""
    """The first one's error in words."""
    samples: list[str] = field(default_factory=list)
    """The first ones' places, like ``SEA_EVENTS:17``."""

    @property
    def identity(self) -> tuple[str, ...]:
        return self.then, self.now, self.subject, self.error, self.place


@dataclass(slots=True)
class Summary:
    """Of one replay: how many events by now, up to which sequence, and how they ended."""

    upto: int = 0
    events: int = 0
    differing: int = 0
    repeated: int = 0
    """Those that an earlier process of the run had handled again already."""
    groups: dict[tuple[str, ...], Group] = field(default_factory=dict)

    def add(
        self, place: tuple[str, int], subject: str, now: Tried, *, then: str = "", differs: bool
    ) -> None:
        """One more event, behind all that were added."""
        stream, self.upto = place
        self.events += 1
        self.differing += differs
        if now.repeated:
            self.repeated += 1
        group = Group(then, now_of(now), differs=differs)
        if differs:
            error = "" if now.error is None else type(now.error).__name__
            group.subject, group.error, group.place = subject, error, now.place
            group.said = now.said
            if group.identity not in self.groups and len(self.groups) >= _GROUPS:
                group = Group(then, now_of(now), error="of many other kinds", differs=True)
        group = self.groups.setdefault(group.identity, group)
        group.events += 1
        if len(group.samples) < _SAMPLES:
            group.samples.append(f"{stream}:{place[1]}")

    @property
    def sorted(self) -> list[Group]:
        """Its groups: those that differ first, the largest first."""
        return sorted(self.groups.values(), key=lambda one: (not one.differs, -one.events))

    def as_json(self) -> dict[str, Any]:
        """For machines, and for going on."""
        return {
            "upto": self.upto,
            "events": self.events,
            "differing": self.differing,
            "repeated": self.repeated,
            "groups": [
                {name: getattr(one, name) for name in Group.__slots__} for one in self.sorted
            ],
        }

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """What ``as_json`` gave; an empty one for an empty object."""
        groups = [Group(**one) for one in said.get("groups", ())]
        upto, events, differing, repeated = (
            int(said.get(name, 0)) for name in ("upto", "events", "differing", "repeated")
        )
        return cls(upto, events, differing, repeated, {one.identity: one for one in groups})


def now_of(tried: Tried) -> str:
    """How it ended, in a word or two."""
    if tried.verdict == "letter":
        return f"letter ({tried.reason})"
    return tried.verdict
