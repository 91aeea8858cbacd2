"""Header names, and the metadata that they carry.

Owns: which headers an event has, their text form, the identity rule, and which foreign texts are
``usable``. Pure. Guarantees: ``Metadata.decode(m.encode()) == m``; a malformed header raises
``DecodeError`` that names it, and never becomes a default. Whatever a foreign client sends, ids,
keys and chains that come out of here can stand in an index, in another header and in a log line:

| not usable | what stands for it |
| --- | --- |
| the event id | ``{stream}:{stream_seq}`` |
| the ordering key, or the subject in its place | a hash of it: its events keep their order |
| the correlation id | the event id |
| causation id, trace context | nothing |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from seaway.errors import DecodeError, InvalidName

MSG_ID = "Nats-Msg-Id"
EVENT_ID = "X-Event-Id"
CORRELATION_ID = "X-Correlation-Id"
CAUSATION_ID = "X-Causation-Id"
EVENT_VERSION = "X-Event-Version"
ORDERING_KEY = "X-Ordering-Key"
OCCURRED_AT = "X-Occurred-At"
CONTENT_TYPE = "Content-Type"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
HEALED = "X-Healed-From"
"""On what was published again since its stream had lost it: the sequence that it had there."""
REDRIVE_COUNT = "X-Redrive-Count"
"""On what was redriven: how often that was done by now. It goes on with a letter's event."""
EVENT_PLACE = "X-Event-Place"
"""On what was redriven: where its event lies as it was written, ``SEA_EVENTS:17``. It stays through
any number of letters and redrives."""
MENDED_FROM = "X-Mended-From"
"""On what was redriven with another payload or other headers: ``sha256:`` and the hash of the
payload as it was written. It stays likewise."""

ATTEMPTS = "X-Attempts"
"""On a redrive that a retry was put off to: how often its event had been tried by then."""
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
"""On what the server sends later: when, and to which subject (nats-server 2.12)."""

DLQ_PREFIX = "X-Dlq-"
DLQ_STREAM = "X-Dlq-Stream"
DLQ_STREAM_SEQUENCE = "X-Dlq-Stream-Sequence"
DLQ_CONSUMER = "X-Dlq-Consumer"
DLQ_DELIVERIES = "X-Dlq-Deliveries"
DLQ_REASON = "X-Dlq-Reason"
DLQ_ERROR_TYPE = "X-Dlq-Error-Type"
DLQ_ERROR = "X-Dlq-Error"
DLQ_ERROR_STACK = "X-Dlq-Error-Stack"
DLQ_FAILED_AT = "X-Dlq-Failed-At"
DLQ_VERSION = "X-Dlq-Version"
"""Of the letter's form; not written on those of the first."""

RESERVED = frozenset(
    name.lower()
    for name in (
        MSG_ID,
        EVENT_ID,
        CORRELATION_ID,
        CAUSATION_ID,
        EVENT_VERSION,
        ORDERING_KEY,
        OCCURRED_AT,
        CONTENT_TYPE,
    )
)
"""Lower-cased names that the writer of an event sets through arguments, never as extra headers."""

HEADER_BLOCK_BYTES = 65_535
"""The longest header block that a stream stores, counted as ``header_bytes`` counts (nats-server
2.9 to 2.15; over it the answer is err_code 10097, and an atomic batch is refused whole)."""

EVENT_HEADER_BYTES = HEADER_BLOCK_BYTES - 512
"""The longest that an event may bring: its way adds lines, in a batch or when it is redriven."""

TEXT_BYTES = 1024
"""The longest ordering key, correlation id and causation id of an event. PostgreSQL indexes the
first two, and an index takes no more than 2,700 bytes: a relay could neither settle nor park it."""

_READ_BACK = frozenset({MSG_ID, CORRELATION_ID, CAUSATION_ID, ORDERING_KEY, CONTENT_TYPE})
"""What no reader takes as it is where it is not ``usable``: so it must not be written either."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\r\n\x00\ud800-\udfff]*")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
"""Control characters, and what stands for bytes that are no text: two such ids would be one. By
their code points: what else is printable depends on the version of Python, and an event's identity
must not."""
_TOLD = 80
"""How many characters of a foreign text an error repeats."""
_VERSION = re.compile(r"[1-9][0-9]{0,254}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def check_header(name: str, value: str) -> None:
    """Raise ``InvalidName`` unless the pair can stand in a NATS header block as it is.

    A line break in a value would let its writer add headers of his own choosing.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(f"{name!r} is not a header name")
    _check_value(name, value)


def _check_value(name: str, value: str) -> None:
    if value.isprintable() and value == value.strip():
        return  # What nearly every value is, told without the pattern.
    if not _VALUE.fullmatch(value) or value != value.strip():
        raise InvalidName(f"header {name}: not UTF-8 text, or a line break, NUL or outer blanks")


def usable(text: str) -> bool:
    """Whether a text of somebody else's may be an id or a key: ``TEXT_BYTES`` at the most, no
    control character, no broken encoding, no outer blanks. An empty one is not."""
    if not text or len(text) > TEXT_BYTES or text != text.strip():
        return False
    if text.isascii():
        return text.isprintable()
    return _UNUSABLE.search(text) is None and len(text.encode()) <= TEXT_BYTES


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: ``2026-11-24T08:00:00.000000Z``."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.isoformat(timespec='microseconds').removesuffix('+00:00')}Z"


def format_microseconds(count: int) -> str:
    """The same of a time as microseconds since 1970. Each event written asks, many in a second."""
    seconds, rest = divmod(count, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def parse_time(text: str) -> datetime:
    """An aware UTC time from RFC 3339 text; ``ValueError`` otherwise. Nanoseconds are cut off."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text[:_TOLD]!r} is not an RFC 3339 time")
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def format_schedule(at: datetime) -> str:
    """``Nats-Schedule`` for a message that is sent once, at that time."""
    return f"@at {format_time(at)}"


def parse_schedule(text: str) -> datetime:
    """When a message with this ``Nats-Schedule`` is sent; ``ValueError`` where it is not sent once,
    or cannot be read."""
    how, _, when = text.partition(" ")
    if how != "@at":
        raise ValueError(f"{text[:_TOLD]!r} is no time at which a message is sent once")
    return parse_time(when)


def attempts(headers: Mapping[str, str]) -> int:
    """How often an event had been tried before it was put off; 0 where nothing usable says so."""
    text = headers.get(ATTEMPTS, "")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the headers say of an event. ``key`` is ``None`` where the writer gave none."""

    event_id: str
    correlation_id: str
    causation_id: str | None = None
    version: int | None = None
    key: str | None = None
    occurred_at: datetime | None = None
    content_type: str = "application/json"
    traceparent: str | None = None
    tracestate: str | None = None

    def encode(self) -> dict[str, str]:
        """The wire headers of a first publication; see ``written``."""
        return written(
            self.event_id,
            self.correlation_id,
            self.causation_id,
            self.version,
            self.key,
            None if self.occurred_at is None else format_time(self.occurred_at),
            self.content_type,
            self.traceparent,
            self.tracestate,
        )

    @classmethod
    def decode(cls, headers: Mapping[str, str], *, fallback_id: str) -> Metadata:
        """Read what a message carries; ``fallback_id`` (``{stream}:{stream_seq}``) where no usable
        id is.

        Raises ``DecodeError`` naming the header that cannot be read.
        """
        event_id = identity(headers, fallback_id=fallback_id)
        version = headers.get(EVENT_VERSION)
        if version is not None and not _VERSION.fullmatch(version):
            raise DecodeError(
                f"header {EVENT_VERSION}: {version[:_TOLD]!r} is not a version",
                field=EVENT_VERSION,
            )
        moment = headers.get(OCCURRED_AT)
        try:
            occurred_at = None if moment is None else parse_time(moment)
        except ValueError as error:
            raise DecodeError(f"header {OCCURRED_AT}: {error}", field=OCCURRED_AT) from error
        content_type = headers.get(CONTENT_TYPE) or "application/json"
        if not usable(content_type):
            raise DecodeError(
                f"header {CONTENT_TYPE}: {content_type[:_TOLD]!r} is no content type",
                field=CONTENT_TYPE,
            )
        key = headers.get(ORDERING_KEY)
        return cls(
            event_id=event_id,
            correlation_id=_usable(headers, CORRELATION_ID) or event_id,
            causation_id=_usable(headers, CAUSATION_ID),
            version=None if version is None else int(version),
            key=usable_key(key) if key else None,
            occurred_at=occurred_at,
            content_type=content_type,
            traceparent=_usable(headers, TRACEPARENT),
            tracestate=_usable(headers, TRACESTATE),
        )


def written(
    event_id: str,
    correlation_id: str,
    causation_id: str | None,
    version: int | None,
    key: str | None,
    occurred_at: str | None,
    content_type: str,
    traceparent: str | None,
    tracestate: str | None,
) -> dict[str, str]:
    """The wire headers of a first publication: ``Nats-Msg-Id`` is the event id. ``InvalidName`` for
    what could not be read back. Each event written asks."""
    headers = {MSG_ID: event_id, CORRELATION_ID: correlation_id}
    if causation_id is not None:
        headers[CAUSATION_ID] = causation_id
    if version is not None:
        headers[EVENT_VERSION] = str(version)
    if key is not None:
        headers[ORDERING_KEY] = key
    if occurred_at is not None:
        headers[OCCURRED_AT] = occurred_at
    headers[CONTENT_TYPE] = content_type
    if traceparent is not None:
        headers[TRACEPARENT] = traceparent
    if tracestate is not None:
        headers[TRACESTATE] = tracestate
    texts = headers.values()
    together = "".join(texts)
    if (
        together.isascii()
        and together.isprintable()
        and " " not in together
        and len(together) <= TEXT_BYTES
        and all(texts)
    ):
        return headers  # So are nearly all: each is ``usable``, told in one go.
    for name, value in headers.items():
        if usable(value):
            continue
        _check_value(name, value)
        if name in _READ_BACK:
            raise InvalidName(
                f"header {name}: {value[:_TOLD]!r} is longer than {TEXT_BYTES} bytes, or has "
                "a control character or U+FFFD"
            )
    return headers


class StoredHeaders(Mapping[str, str]):
    """Headers as the outbox stores them, a JSON object of texts; parsed only if somebody asks.

    The relay moves most of them to the wire without ever looking inside. What is no such object,
    since another program wrote it, is empty and has a ``fault``.
    """

    __slots__ = ("_headers", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._headers: dict[str, str] | None = None

    @property
    def fault(self) -> str | None:
        """Why they cannot be read; ``None`` where they can."""
        if self._parsed() or self._text == "{}":
            return None
        return f"its headers are not a JSON object of texts: {self._text[:80]!r}"

    def name(self, event_id: str) -> bool:
        """Whether they name this event, and it alone, as can be seen without parsing."""
        text = self._text
        return (
            text.startswith(f'{{"Nats-Msg-Id":"{event_id}"')
            and text.find('"Nats-', 2) < 0
            and '"X-Event-Id"' not in text
            and text[-2:] == '"}'
            and "\\" not in text
        )

    @property
    def lines(self) -> bytes | None:
        """The header lines, each with its line end; ``None`` where that needs parsing.

        Without an escape every quotation mark is JSON's own: a compact object of texts comes apart
        at its quotation marks. Each replacement takes two that follow one another. So where none
        is left, they were taken two by two from the first on: the end of each name with its
        value's begin, and so on. What no JSON text holds bare, or would have the server act, is
        for the parsing to refuse.
        """
        text = self._text
        if text[:2] != '{"' or text[-2:] != '"}' or "\\" in text:
            return None
        orders = text.find('"Nats-', 2 if text.startswith('{"Nats-Msg-Id":') else 0)
        if orders >= 0 or "\n" in text or "\r" in text or "\0" in text:
            return None
        lines = text[2:-2].replace('":"', ": ").replace('","', "\r\n")
        return None if '"' in lines else f"{lines}\r\n".encode()

    def _parsed(self) -> dict[str, str]:
        if self._headers is None:
            self._headers = _texts(self._text)
        return self._headers

    def __getitem__(self, name: str) -> str:
        return self._parsed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())

    def __repr__(self) -> str:
        return f"StoredHeaders({self._text!r})"


def _texts(text: str) -> dict[str, str]:
    """A JSON object of texts; empty for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        return {}
    return found


def check_headers(headers: Mapping[str, str], event_id: str) -> None:
    """Raise ``InvalidName`` unless these headers publish the event of this id, and no other."""
    if not event_id:
        raise InvalidName("it has no event id")
    if isinstance(headers, StoredHeaders):
        if headers.name(event_id):
            return
        if fault := headers.fault:
            raise InvalidName(fault)
    for name in (MSG_ID, EVENT_ID):
        named = headers.get(name, "" if name == MSG_ID else event_id)
        if named != event_id:
            raise InvalidName(
                f"its headers name another event: {name} is {named[:80]!r}, not {event_id}"
            )


def check_control(name: str) -> None:
    """Raise ``InvalidName`` for a header that has JetStream purge, expect or schedule."""
    if name.startswith("Nats-") and name != MSG_ID:
        raise InvalidName(f"header {name} is an order to the server, not an event's to give")


def identity(headers: Mapping[str, str], *, fallback_id: str) -> str:
    """``X-Event-Id``, else ``Nats-Msg-Id``; ``fallback_id`` where there is none that is usable.
    Never fails."""
    found = headers.get(EVENT_ID) or headers.get(MSG_ID)
    return found if found and usable(found) else fallback_id


def ordering_key(subject: str, headers: Mapping[str, str]) -> str:
    """The key whose events keep their order: ``X-Ordering-Key``, else the subject, as a
    ``usable_key``. Never fails."""
    return usable_key(headers.get(ORDERING_KEY) or subject)


def usable_key(text: str) -> str:
    """``text``, or a hash in its place where it is not usable: the same for the same text, so that
    its events keep their order, in a redrive as well."""
    if usable(text):
        return text
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def correlation(headers: Mapping[str, str]) -> str | None:
    """The correlation id that ``headers`` bring, where they bring a usable one."""
    return _usable(headers, CORRELATION_ID)


def _usable(headers: Mapping[str, str], name: str) -> str | None:
    found = headers.get(name)
    return found if found and usable(found) else None


def header_bytes(headers: Mapping[str, str]) -> int:
    """Bytes of the header block, first line and end included; 0 where there are no headers."""
    if not headers:
        return 0
    texts = len("".join((*headers, *headers.values())).encode())
    return len(b"NATS/1.0\r\n") + texts + 4 * len(headers) + len(b"\r\n")


def wire_bytes(headers: Mapping[str, str], payload: bytes) -> int:
    """Bytes of header block and payload, as the server counts them against ``max_payload``."""
    return header_bytes(headers) + len(payload)
