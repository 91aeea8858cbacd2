"""Which letters are meant: one value for lists, causes, redrives and discards alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from seaway import headers as h
from seaway.contracts import StoredMessage
from seaway.dead_letters.cause import cause_of
from seaway.dead_letters.conditions import condition, document_of
from seaway.dead_letters.letter import FOREIGN, Letter
from seaway.naming import check_filter, covers


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters. Empty: all of them. ``ids`` are letter ids (``SEA_DLQ:17``) or event ids.

    All that is given must hold. ``ConfigError`` where ``subject`` is no filter, or one of ``where``
    no condition.
    """

    ids: tuple[str, ...] = ()
    consumer: str | None = None
    subject: str | None = None
    """The event's subject; may hold wildcards."""
    reason: str | None = None
    """``foreign``: what has none of Seaway's headers."""
    error_type: str | None = None
    """The exception's class, with or without its module."""
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None
    """A text in what failed and why, capitals or not."""
    key: str | None = None
    """The event's ordering key."""
    where: tuple[str, ...] = ()
    """Conditions on payload and headers: ``payload.amount>100`` (see ``conditions``)."""
    cause: str | None = None
    """The id of a cause, as ``seaway dlq ls --group`` shows it."""

    def __post_init__(self) -> None:
        if self.subject is not None:
            check_filter(self.subject)
        for text in self.where:
            condition(text)

    @property
    def reads_payloads(self) -> bool:
        """Whether a letter's payload says if it is meant: see ``takes_payload``."""
        return any(condition(text).of_payload for text in self.where)

    def may_take(self, stored: StoredMessage) -> bool:
        """What two headers say, before the others are looked at: queues can be long."""
        headers = stored.message.headers
        return self.reason in (None, FOREIGN, headers.get(h.DLQ_REASON, "")) and (
            self.consumer in (None, headers.get(h.DLQ_CONSUMER, ""))
        )

    def takes(self, letter: Letter) -> bool:
        """Whether ``letter`` is one of them, but for what its payload says."""
        return (
            (not self.ids or letter.id in self.ids or letter.event_id in self.ids)
            and self.consumer in (None, letter.consumer)
            and (self.subject is None or covers(self.subject, letter.subject))
            and self.reason in (None, letter.reason)
            and self.error_type in (None, letter.error_type, letter.error_type.rpartition(".")[2])
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
            and self.key in (None, letter.key)
            and (self.error is None or _says(letter, self.error))
            and self._holds(letter.stored.message.headers, None, of_payload=False)
            and (self.cause is None or cause_of(letter).id == self.cause)
        )

    def takes_payload(self, payload: bytes) -> bool:
        """Whether the payload of a letter that it ``takes`` holds what is asked of it."""
        return self._holds({}, document_of(payload), of_payload=True)

    def _holds(self, headers: Mapping[str, str], document: object, *, of_payload: bool) -> bool:
        return all(
            one.holds(headers, document)
            for one in map(condition, self.where)
            if one.of_payload == of_payload
        )


def _says(letter: Letter, text: str) -> bool:
    said = f"{letter.error_type}: {letter.error}\n{letter.problem}"
    return text.casefold() in said.casefold()
