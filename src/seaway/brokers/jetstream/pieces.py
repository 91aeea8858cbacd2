"""A call's messages cut into pieces of one atomic batch's size, encoded as they are drawn.

Owns: what can be sent at all, what waits behind a message that was not stored, and each message's
outcome. Must not know a connection. Guarantees: nothing of a key is drawn once a message of it was
refused or was there; nothing is drawn that needs no less room than what had none; a piece holds no
message that could not stand in a batch, unless it stands alone; no more than one message is encoded
ahead of what has been drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.answers import concerns_the_stream
from seaway.brokers.jetstream.codes import TOO_LARGE, refused
from seaway.contracts import Held, Message, PublishOutcome, Refused, Stored
from seaway.errors import ConfigError

BATCH_MESSAGES = 1000
BATCH_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class Piece:
    """What was drawn for one batch: the messages, and their places in the call."""

    places: list[int] = field(default_factory=list)
    messages: list[wire.Prepared] = field(default_factory=list)


class Room:
    """What found no room during one call.

    The server says that it is full, and not of what: all messages, bytes, or those of a subject.
    Whichever it is, a message of the same subject that is no smaller finds no room either.
    """

    def __init__(self) -> None:
        self._least: dict[bytes, tuple[int, Refused]] = {}

    def lacked(self, message: wire.Prepared, refusal: Refused) -> None:
        """There was none for ``message``."""
        known = self._least.get(message.subject)
        if known is None or message.size < known[0]:
            self._least[message.subject] = message.size, refusal

    def refusal(self, message: wire.Prepared) -> Refused | None:
        """What the stream would say to ``message``, as far as is known; ``None``: to be tried."""
        if not self._least:
            return None
        known = self._least.get(message.subject)
        return known[1] if known is not None and message.size >= known[0] else None


class Cut:
    """The messages of one call. ``limit``: the server's ``max_payload`` in bytes."""

    def __init__(self, messages: Sequence[Message], *, limit: int) -> None:
        self.outcomes: list[PublishOutcome] = [Held()] * len(messages)
        self._messages = messages
        self._limit = limit
        self._blocked: set[str] = set()
        self.room = Room()
        self._source = self._sendable()
        self._ahead: tuple[int, wire.Prepared] | None = None

    def keys(self, piece: Piece) -> list[str]:
        """The ordering key of each message drawn."""
        return [self._messages[place].key for place in piece.places]

    def stands_alone(self) -> bool:
        """Whether the next message has no room for the headers of a batch."""
        ahead = self._peek()
        return ahead is not None and ahead[1].size + wire.BATCH_HEADER_BYTES > self._limit

    def draw(self, piece: Piece) -> Iterator[wire.Prepared]:
        """The next batch's messages, put into ``piece`` as they are taken; none at the end."""
        places, messages, room = piece.places, piece.messages, BATCH_BYTES
        most = self._limit - wire.BATCH_HEADER_BYTES
        while (ahead := self._peek()) is not None:
            place, message = ahead
            room -= message.size
            alone = message.size > most
            if places and (alone or room < 0 or len(places) == BATCH_MESSAGES):
                return
            self._ahead = None
            places.append(place)
            messages.append(message)
            yield message
            if alone:
                return

    def settle(self, piece: Piece, outcomes: Sequence[PublishOutcome]) -> bool:
        """Take a piece's outcomes. Whether to go on: not where one speaks of the whole stream."""
        ill = None
        for place, outcome in zip(piece.places, outcomes, strict=True):
            self.outcomes[place] = outcome
            if not isinstance(outcome, Stored) or outcome.duplicate:
                self._blocked.add(self._messages[place].key)
                if ill is None and concerns_the_stream(outcome):
                    ill = outcome
        if isinstance(ill, Refused):
            first = piece.places[-1] + 1
            self.outcomes[first:] = [ill] * (len(self.outcomes) - first)
        return ill is None

    def _peek(self) -> tuple[int, wire.Prepared] | None:
        # What was encoded ahead may wait behind a message of the piece before it.
        ahead = self._ahead
        while ahead is None or (self._blocked and self._waits(*ahead)):
            ahead = next(self._source, None)
            if ahead is None:
                break
        self._ahead = ahead
        return ahead

    def _waits(self, place: int, message: wire.Prepared) -> bool:
        key = self._messages[place].key
        if key in self._blocked:
            return True
        refusal = self.room.refusal(message)
        if refusal is None:
            return False
        self.outcomes[place] = refusal
        self._blocked.add(key)
        return True

    def _sendable(self) -> Iterator[tuple[int, wire.Prepared]]:
        for place, message in enumerate(self._messages):
            if self._blocked and message.key in self._blocked:
                continue
            try:
                prepared = wire.prepare(message)
            except ConfigError as error:
                self._refuse(place, str(error), err_code=0)
                continue
            if prepared.size > self._limit:
                # The server would close the connection over it.
                words = (
                    f"more than the server's max_payload of {self._limit} bytes: {prepared.size}"
                )
                self._refuse(place, words, err_code=TOO_LARGE)
                continue
            yield place, prepared

    def _refuse(self, place: int, words: str, *, err_code: int) -> None:
        self.outcomes[place] = refused(words, code=400, err_code=err_code)
        self._blocked.add(self._messages[place].key)
