"""How many of what, and what was meant, in words for people. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(count: int, one: str, many: str = "") -> str:
    """``1 event``, ``2 events``, ``1000 events``; ``many`` where it is not ``one`` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Which of ``known`` a mistyped ``name`` may have meant; empty where none is like it.
    ``cutoff``: how alike, 0 to 1."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")
