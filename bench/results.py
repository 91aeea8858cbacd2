"""Rounds become medians and ratios. Pure; knows neither the terminal nor the file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.catalogue import Contender, Group
from bench.job import Figures


@dataclass(slots=True)
class Entry:
    """One contender's rounds, ``None`` where a round failed. Grows while the driver runs."""

    contender: Contender
    events: int
    rounds: list[Figures | None] = field(default_factory=list)
    error: str | None = None
    """What the first failed round said last."""

    def values(self, key: str) -> list[float]:
        """The figure in each round that has it."""
        return [figures[key] for figures in self.rounds if figures is not None]

    def median(self, key: str) -> float | None:
        """Over the rounds that ran; ``None`` where none did."""
        values = self.values(key)
        return statistics.median(values) if values else None


@dataclass(slots=True)
class Comparison:
    """One group's entries."""

    group: Group
    entries: Sequence[Entry]

    def ratio(self, entry: Entry) -> float | None:
        """The median over the rounds of the subject's first figure divided by ``entry``'s.

        Quotients are taken within a round, whose runs are neighbours in time: what slows the
        machine for a while slows both. ``None`` where no round has both.
        """
        subject = next((e for e in self.entries if e.contender.name == self.group.subject), None)
        if subject is None:
            return None
        key = self.group.figures[0].key
        quotients = [
            mine[key] / theirs[key]
            for mine, theirs in zip(subject.rounds, entry.rounds, strict=True)
            if mine is not None and theirs is not None
        ]
        return statistics.median(quotients) if quotients else None
