"""Figures in words for people: sizes and ages. Pure."""

from __future__ import annotations

from datetime import timedelta

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


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
