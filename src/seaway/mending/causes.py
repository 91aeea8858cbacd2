"""Letters by their cause: what one mending helps, seen before any single letter.

Reads the headers of every selected letter once. Guarantees: memory does not grow with the queue:
at most ``MOST`` causes are told apart, each with ``MOST_CONSUMERS`` consumers, and what comes after
that is counted as ``OTHERS``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from seaway.dead_letters import Letter
from seaway.dead_letters.cause import Cause, cause_of
from seaway.headers import format_time

MOST = 1000
MOST_CONSUMERS = 100
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Group:
    """The letters of one cause."""

    cause: Cause
    count: int
    consumers: Mapping[str, int]
    """Who failed, with how many letters, the most first; empty of foreign letters."""
    first: datetime
    """When the first of them failed."""
    last: datetime
    sample: str
    """The id of the last of them that was read."""
    error: str
    """What it says."""

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "cause": self.cause.id,
            "error_type": self.cause.error,
            "place": self.cause.place,
            "subject": self.cause.subject,
            "count": self.count,
            "consumers": dict(self.consumers),
            "first": format_time(self.first),
            "last": format_time(self.last),
            "sample": self.sample,
            "error": self.error,
        }


@dataclass(slots=True)
class _Tally:
    """What is known of one cause by now."""

    first: datetime
    last: datetime
    sample: Letter
    count: int = 0


class Causes:
    """Counts letters by their cause, one by one."""

    def __init__(self) -> None:
        self._tallies: dict[Cause, _Tally] = {}
        self._consumers: dict[Cause, Counter[str]] = {}

    def add(self, letter: Letter) -> None:
        """Count one more."""
        cause = cause_of(letter)
        if cause not in self._tallies and len(self._tallies) >= MOST:
            cause = Cause(OTHERS, "", "")
        tally = self._tallies.get(cause)
        if tally is None:
            tally = self._tallies[cause] = _Tally(letter.failed_at, letter.failed_at, letter)
            self._consumers[cause] = Counter()
        tally.count += 1
        tally.sample = letter
        tally.first = min(tally.first, letter.failed_at)
        tally.last = max(tally.last, letter.failed_at)
        consumers = self._consumers[cause]
        if letter.consumer in consumers or len(consumers) < MOST_CONSUMERS:
            consumers[letter.consumer] += 1

    def groups(self) -> Sequence[Group]:
        """By cause, the most letters first."""
        found = [
            Group(
                cause,
                tally.count,
                {name: count for name, count in self._consumers[cause].most_common() if name},
                tally.first,
                tally.last,
                tally.sample.id,
                tally.sample.error,
            )
            for cause, tally in self._tallies.items()
        ]
        return sorted(found, key=lambda one: (-one.count, one.cause))


async def group(letters: AsyncIterator[Letter]) -> Sequence[Group]:
    """``letters`` by their cause, the most first."""
    causes = Causes()
    async for letter in letters:
        causes.add(letter)
    return causes.groups()
