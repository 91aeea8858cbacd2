"""What a database error means for the open transaction, also where a user's code has wrapped it.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto

from seaway.errors import SessionLost


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


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` itself, what it was raised from or during, and the members of groups; each once."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        left += [found.__context__, found.__cause__]
        if isinstance(found, BaseExceptionGroup):
            left += found.exceptions


def session_lost(
    where: str, error: BaseException, said_by_driver: Callable[[BaseException], bool]
) -> SessionLost:
    """For what ended a transaction whose session is gone; the driver's words where it has any."""
    said = (str(found) for found in causes(error) if said_by_driver(found))
    return SessionLost(f"{where}: the session has ended: {next(said, type(error).__name__)}")
