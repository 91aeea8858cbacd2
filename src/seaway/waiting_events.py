"""Events that wait in a dead letter queue, as a database remembers them: values. Pure.

Owns: the order of a key's waiting events, which is that of their places (ADR 0010).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

Place: TypeAlias = tuple[str, int]
"""Which message: its stream and its sequence there."""

PUT_OFF = 0
"""In place of its letter: the event has none, and is sent again later (ADR 0030)."""


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event of a consumer that waits in the dead letter queue, in its place among those of its
    key (ADR 0010)."""

    consumer: str
    event_id: str
    key: str
    place: int
    """Its sequence in the event stream; 0 for what a redrive brought and the stream did not."""
    failed: bool
    """It is there of its own fault, until somebody redrives or discards it; else it waits behind
    an earlier one."""
    letter: int | None
    """The letter's sequence in its queue; ``None`` until it is known to be stored; ``PUT_OFF``."""
    parked_at: datetime
    processed: bool
    """Its effects are there all the same: nothing waits behind it."""


class WaitingKeys:
    """Whether keys of one durable may have events that wait, so that its transactions look for
    them. Pure. ``always``: they do, whatever was found.

    Somebody looks every few seconds (``kept``); in between, whoever has an event wait, or cannot
    know what others did, says so (``doubt``). Looking costs each transaction a statement, and where
    nothing waits there is none to be found.
    """

    def __init__(self, *, always: bool = False) -> None:
        self._always = always
        self._doubts = 0
        self.kept = False
        """Whether somebody looks, and lets go what waits."""
        self.may_wait = always

    def keep(self) -> None:
        """Somebody looks from now on."""
        self.kept = True
        self.doubt()

    def doubt(self) -> None:
        """Something may wait, until a look that begins after this has found nothing."""
        if self.kept:
            self._doubts += 1
            self.may_wait = True

    def look(self) -> int:
        """A look begins: what to give to ``found``."""
        return self._doubts

    def found(self, anything: bool, look: int) -> None:
        """What that look has found."""
        if anything:
            self.may_wait = True
        elif look == self._doubts:
            self.may_wait = self._always


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an event stands among those of its key: ``own`` is its row, ``first`` the first of its
    key that has no effects yet (which may be its own). ``processed``: it has its effects itself;
    not looked for where both are ``None``."""

    processed: bool = False
    own: WaitingEvent | None = None
    first: WaitingEvent | None = None

    @classmethod
    def of(cls, consumer: str, event_id: str, rows: Iterable[Sequence[Any]]) -> Standing:
        """What the statement ``standing`` gives: its own row and the first of its key, in order of
        their places, each with whether the event (not the row's) is in the inbox."""
        found = [WaitingEvent(consumer, *row) for row in rows]
        if not found:
            return cls()
        processed = found[0].processed
        own = next((one for one in found if one.event_id == event_id), None)
        first = next((one for one in found if one.event_id != event_id or not processed), None)
        return cls(processed, own, first and replace(first, processed=False))
