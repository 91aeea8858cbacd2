"""A page of letters, and how many wait behind each of them.

Guarantees: a page costs what it shows, however long the queues are. Who waits behind a letter can
lie anywhere in its queue, and no server looks into headers: that is counted where all of it can be
read in a moment (``COUNTED`` letters), or where somebody asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from seaway.dead_letters import Letter

COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some letters of the queues, in the order asked for, without their payloads."""

    letters: Sequence[Letter]
    more: bool
    """Whether others come after them."""
    held: int
    """How many letters the queues hold, selected or not."""
    behind: Mapping[str, int] | None
    """By letter id, how many wait behind each; ``None``: nobody counted."""


async def behind(letters: Sequence[Letter], parked: AsyncIterator[Letter]) -> Mapping[str, int]:
    """By letter id, how many of ``parked`` wait behind each of ``letters``."""
    failed = {(one.consumer, one.key) for one in letters if not one.waits}
    counts: Counter[tuple[str, str]] = Counter()
    async for one in parked:
        if one.has_place and (one.consumer, one.key) in failed:
            counts[one.consumer, one.key] += 1
    return {one.id: 0 if one.waits else counts[one.consumer, one.key] for one in letters}
