"""Which letters of the queues are meant. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from seaway import headers as h
from seaway.contracts import StoredMessage
from seaway.dead_letters.letter import Letter
from seaway.naming import check_filter, covers


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters. Empty: all of them. ``ids`` are letter ids (``SEA_DLQ:17``) or event ids."""

    ids: tuple[str, ...] = ()
    consumer: str | None = None
    subject: str | None = None
    """The event's subject; may hold wildcards."""
    reason: str | None = None
    error_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.subject is not None:
            check_filter(self.subject)

    def may_take(self, stored: StoredMessage) -> bool:
        """What two headers say, before the others are looked at: queues can be long."""
        headers = stored.message.headers
        return self.reason in (None, headers.get(h.DLQ_REASON, "")) and self.consumer in (
            None,
            headers.get(h.DLQ_CONSUMER, ""),
        )

    def takes(self, letter: Letter) -> bool:
        """Whether ``letter`` is one of them."""
        return (
            (not self.ids or letter.id in self.ids or letter.event_id in self.ids)
            and self.consumer in (None, letter.consumer)
            and (self.subject is None or covers(self.subject, letter.subject))
            and self.reason in (None, letter.reason)
            and self.error_type in (None, letter.error_type, letter.error_type.rpartition(".")[2])
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )
