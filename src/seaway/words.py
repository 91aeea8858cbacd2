"""How many of what, in words for people. Pure."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """``1 event``, ``2 events``, ``1000 events``; ``many`` where it is not ``one`` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"
