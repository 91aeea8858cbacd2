"""Event ids, counted and added up minute by minute, so that two places can be compared without
carrying every id from one to the other. Pure.

An id that is a UUIDv7 belongs to the minute that it begins with. All others share one bucket. A
tally is how many ids there are and the sum of a hash of each: the same ids in any order give the
same tally, and other ids another one (the hash is SHA-256's first 64 bits, signed).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

OTHERS = -1
"""The bucket of what is no UUIDv7, or one of a time to come."""
OUTSIDE = -2
"""Not in the window."""
MINUTE_MS = 60_000

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


class Tally(NamedTuple):
    """``total``: the sum of the hashes. ``first``, ``last``: the lowest and highest place among
    them; 0 where they have none."""

    events: int = 0
    total: int = 0
    first: int = 0
    last: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        firsts = [one.first for one in (self, other) if one.events]
        return Tally(
            self.events + other.events,
            self.total + other.total,
            min(firsts, default=0),
            max(self.last, other.last),
        )

    def same(self, other: Tally) -> bool:
        """Whether both are of the same ids."""
        return self[:2] == other[:2]


class Window(NamedTuple):
    """Which ids: those whose time, in milliseconds since 1970, is ``since`` or later, and before
    ``until``. ``beyond``: later ones are not left out, but count among ``OTHERS``."""

    since: int
    until: int
    beyond: bool = True

    def bucket(self, event_id: str) -> int:
        """An id's minute since 1970, ``OTHERS`` or ``OUTSIDE``."""
        at = millisecond(event_id)
        if at is None:
            return OTHERS
        if at < self.since:
            return OUTSIDE
        if at >= self.until:
            return OTHERS if self.beyond else OUTSIDE
        return at // MINUTE_MS

    @property
    def later(self) -> int:
        """The bucket of ids of later times."""
        return OTHERS if self.beyond else OUTSIDE


def millisecond(event_id: str) -> int | None:
    """The time that a UUIDv7 begins with, in milliseconds since 1970; ``None`` for other ids."""
    if _UUID7.fullmatch(event_id) is None:
        return None
    return int(event_id[:8] + event_id[9:13], 16)


def first_id(milliseconds: int) -> str:
    """What every UUIDv7 of that time and later ones are not below, as text."""
    digits = f"{max(0, milliseconds):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def fingerprint(event_id: str) -> int:
    """The hash that is added up."""
    digest = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def tallied(rows: Iterable[tuple[str, int]], window: Window) -> dict[int, Tally]:
    """The tallies of ids and their places, by bucket."""
    found: dict[int, Tally] = {}
    for event_id, place in rows:
        bucket = window.bucket(event_id)
        if bucket != OUTSIDE:
            one = Tally(1, fingerprint(event_id), place, place)
            known = found.get(bucket)
            found[bucket] = one if known is None else known.plus(one)
    return found
