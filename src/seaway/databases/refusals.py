"""What a database's error says of the transaction that it met. Pure."""

from __future__ import annotations

from enum import Enum, auto


class Refusal(Enum):
    """Told by code, never by text."""

    AWAY = auto()
    """The database is away, or ended the transaction for another's sake: the same may succeed."""
    ENDED = auto()
    """The transaction is not the one that was begun."""
    ABORTED = auto()
    """A statement had failed before, so nothing can be committed."""
    OTHER = auto()
    """The statement's own fault."""
