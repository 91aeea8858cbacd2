"""Counts, sizes, durations and "did you mean", in words for people. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import timedelta

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def counted(count: int, one: str, many: str = "") -> str:
    """``1 event``, ``2 events``, ``1000 events``; ``many`` where it is not ``one`` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Which of ``known`` a mistyped ``name`` may have meant; empty where none is like it.
    ``cutoff``: how alike, 0 to 1."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


def human_bytes(size: int) -> str:
    """``1536`` gives ``1.5 KB``; 1 KB = 1024 bytes, as everywhere in Seaway."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def human_duration(span: timedelta) -> str:
    """``90 s`` gives ``1m 30s``: the two largest units; ``0s`` for less than a second."""
    rest = max(0, int(span.total_seconds()))
    parts: list[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, seconds)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
