"""Names on the wire: subjects, streams and durables, built, parsed and validated.

Owns: the grammar of every name that another program may rely on. Pure; knows no transport.
Guarantees: ``parse(build(x)) == x``; an invalid name raises ``InvalidName`` that says which part
is wrong and shows a right one; no name is ever repaired silently.

| what               | form                                                  |
| ------------------ | ----------------------------------------------------- |
| event subject      | ``{context}.event.{event_name}.v{version}``           |
| event stream       | ``{CONTEXT}_EVENTS`` on ``{context}.event.>``         |
| dead letter        | ``{context}.dlq.{original_subject}`` in ``{CONTEXT}_DLQ`` |
| redrive            | ``{context}.redrive.{durable}.{original_subject}`` in ``{CONTEXT}_REDRIVE`` |
| redrive, later     | ``{context}.redrive.later.{durable}.{hash of the event id}``, there too |
| durable            | ``{service}__{purpose}``, ``{service}__from_{context}`` |
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from seaway.errors import InvalidName

RELAY, SWEEPER, OPERATOR, WATCHER = "relay", "sweeper", "operator", "watcher"
"""Who reads streams, besides the consumers."""

SWEEPER_DURABLE = "seaway__sweeper"
"""On the stream of advisories; all sweepers share it."""

ADVISORY_STREAM = "SEAWAY_ADVISORIES"
MAX_DELIVERIES_PREFIX = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
MSG_TERMINATED_PREFIX = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED"
ADVISORY_SUBJECTS = (f"{MAX_DELIVERIES_PREFIX}.>", f"{MSG_TERMINATED_PREFIX}.>")

OWN_RIGHTS = "$SYS.REQ.USER.INFO"
"""Where a user asks what he himself may do; answered since nats-server 2.10."""

MAX_NAME_BYTES = 255
"""Longest name of a stream or durable: the server's own bound."""

MAX_SUBJECT_BYTES = 255
"""Longest subject that Seaway writes; a dead letter's or redrive's prefix comes on top."""

MAX_WIRE_SUBJECT_BYTES = 3840
"""Longest subject that is sent: the server takes a line of 4,096 bytes (``max_control_line``, its
default), with a verb, a reply subject and two sizes."""

_PART = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_VERSION = re.compile(r"v([1-9][0-9]*)")
_UPPER_PART = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TOKEN = re.compile(r"[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+")


_API_NAME = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def is_name(text: str) -> bool:
    """Whether a stream or durable could have this name: then it can stand in a subject."""
    return len(text.encode("utf-8", "replace")) <= MAX_NAME_BYTES and bool(
        _API_NAME.fullmatch(text)
    )


def check_part(value: str, what: str) -> str:
    """``value`` itself, if it is a valid ``what`` (context, event_name, service, purpose)."""
    if not isinstance(value, str) or not _PART.fullmatch(value):
        raise InvalidName(
            f"{what} {value!r} is not a valid name",
            hint="lower-case letters and digits in parts joined by single underscores, "
            "beginning with a letter, like case_mgmt",
        )
    return value


def check_version(value: int) -> int:
    """``value`` itself, if it is an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidName(f"version {value!r} is not valid", hint="an integer of 1 or more")
    return value


def check_subject(subject: str) -> str:
    """``subject`` itself, if it can be published to: non-empty tokens, no wildcard, no blank.

    nats-py lets ``a..b`` pass and the server answers it with silence, so it is checked here.
    """
    if not isinstance(subject, str) or not subject:
        raise InvalidName("the subject is empty", hint="like sea.event.case_created.v1")
    for token in subject.split("."):
        if not _TOKEN.fullmatch(token):
            raise InvalidName(
                f"subject {subject!r} has an invalid token {token!r}",
                hint="tokens are joined by single dots, without blanks, '*' or '>'",
            )
    if len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise InvalidName(f"subject {subject[:40]!r}… is longer than {MAX_SUBJECT_BYTES} bytes")
    return subject


def is_subject(text: str) -> bool:
    """Whether ``check_subject`` passes it."""
    try:
        check_subject(text)
    except InvalidName:
        return False
    return True


@dataclass(frozen=True, slots=True, order=True)
class EventSubject:
    """``{context}.event.{event_name}.v{version}``; every instance is valid."""

    context: str
    event_name: str
    version: int = 1

    def __post_init__(self) -> None:
        check_part(self.context, "context")
        check_part(self.event_name, "event name")
        check_version(self.version)
        check_subject(str(self))

    def __str__(self) -> str:
        return f"{self.context}.event.{self.event_name}.v{self.version}"

    @classmethod
    def parse(cls, subject: str) -> EventSubject:
        """The parts of an event subject; ``InvalidName`` for anything else."""
        return _parse_event_subject(subject if isinstance(subject, str) else check_subject(subject))


@lru_cache(maxsize=1024)  # Each event written asks; a service has few subjects.
def _parse_event_subject(subject: str) -> EventSubject:
    parts = check_subject(subject).split(".")
    version = _VERSION.fullmatch(parts[3]) if len(parts) == 4 else None
    if version is None or parts[1] != "event":
        raise InvalidName(
            f"{subject!r} is not an event subject",
            hint="{context}.event.{event_name}.v{version}, like sea.event.case_created.v1",
        )
    return EventSubject(parts[0], parts[2], int(version.group(1)))


def event_name_of(class_name: str) -> str:
    """``CaseCreated`` and ``CaseCreatedEvent`` both give ``case_created``."""
    stem = class_name.removesuffix("Event") or class_name
    return check_part(_CAMEL.sub("_", stem).lower(), "event name")


def context_of(subject: str) -> str:
    """The context that a subject belongs to: its first token, validated as a context."""
    return check_part(check_subject(subject).partition(".")[0], "context")


@lru_cache(maxsize=1024)
def is_event_of(context: str, subject: str) -> bool:
    """Whether ``subject``, of any length, can be that of a context's event, a foreign one too. Not
    with U+FFFD: that stands for bytes that are no text, and sent it would be another subject."""
    tokens = subject.split(".")
    return (
        len(tokens) > 2
        and tokens[:2] == [context, "event"]
        and "\ufffd" not in subject
        and all(map(_TOKEN.fullmatch, tokens))
    )


def events_stream(context: str) -> str:
    """``sea`` gives ``SEA_EVENTS``."""
    return f"{check_part(context, 'context').upper()}_EVENTS"


def events_filter(context: str) -> str:
    """``sea`` gives ``sea.event.>``."""
    return f"{check_part(context, 'context')}.event.>"


def dlq_stream(context: str) -> str:
    """``sea`` gives ``SEA_DLQ``."""
    return f"{check_part(context, 'context').upper()}_DLQ"


def dlq_filter(context: str) -> str:
    """``sea`` gives ``sea.dlq.>``."""
    return f"{check_part(context, 'context')}.dlq.>"


def redrive_stream(context: str) -> str:
    """``sea`` gives ``SEA_REDRIVE``."""
    return f"{check_part(context, 'context').upper()}_REDRIVE"


def redrive_filter(context: str, durable: str | None = None) -> str:
    """``sea`` gives ``sea.redrive.>``; with a durable, that durable's own subtree."""
    check_part(context, "context")
    if durable is None:
        return f"{context}.redrive.>"
    return f"{context}.redrive.{Durable.parse(durable)}.>"


def later_filter(context: str, durable: str | None = None) -> str:
    """What a context's redrives lie under that are to be sent later; with a durable, those to it.

    No durable can be called ``later``, so none reads them.
    """
    check_part(context, "context")
    if durable is None:
        return f"{context}.redrive.later.>"
    return f"{context}.redrive.later.{Durable.parse(durable)}.>"


def later_subject(context: str, durable: str, event_id: str) -> str:
    """Under which one event waits that is sent to one durable later: a server keeps one message
    with a time for each subject, so there is never more than one of them."""
    token = hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{later_filter(context, durable).removesuffix('>')}{token}"


def stream_context(stream: str) -> str:
    """The context of an event, dead letter or redrive stream: ``SEA_EVENTS`` gives ``sea``."""
    for suffix in ("_EVENTS", "_DLQ", "_REDRIVE"):
        stem = stream.removesuffix(suffix)
        if stem != stream and _UPPER_PART.fullmatch(stem):
            return stem.lower()
    raise InvalidName(
        f"{stream!r} is not the name of a context's stream", hint="like SEA_EVENTS or SEA_DLQ"
    )


def kind_of(stream: str) -> str:
    """Which of a context's streams: ``events``, ``dlq`` or ``redrive``; empty: none of them."""
    try:
        stream_context(stream)
    except InvalidName:
        return ""
    return stream.rpartition("_")[2].lower()


def original_subject(subject: str) -> str:
    """The event's own subject: a redrive subject's prefix is taken off, others stay. Pure text.

    Never fails, so that any foreign subject can be dead-lettered under its own name.
    """
    context, separator, rest = subject.partition(".redrive.")
    if not separator:
        return subject
    original = rest.partition(".")[2]
    if "." not in context and original.startswith(f"{context}."):
        return original
    return subject


@dataclass(frozen=True, slots=True, order=True)
class Durable:
    """``{service}__{purpose}``: who consumes, and for what; every instance is valid."""

    service: str
    purpose: str

    def __post_init__(self) -> None:
        check_part(self.service, "service")
        check_part(self.purpose, "purpose")

    def __str__(self) -> str:
        return f"{self.service}__{self.purpose}"

    @classmethod
    def from_context(cls, service: str, context: str) -> Durable:
        """``case_mgmt``, ``sea`` gives ``case_mgmt__from_sea``."""
        return cls(service, f"from_{check_part(context, 'context')}")

    @classmethod
    def parse(cls, name: str) -> Durable:
        """The parts of a durable; ``InvalidName`` for anything else."""
        service, separator, purpose = (
            name.partition("__") if isinstance(name, str) else ("", "", "")
        )
        if not separator or not _PART.fullmatch(service) or not _PART.fullmatch(purpose):
            raise InvalidName(
                f"{name!r} is not a durable's name",
                hint="{service}__{purpose}, like case_mgmt__from_sea",
            )
        return cls(service, purpose)


@lru_cache(maxsize=1024)  # Each letter of a long queue asks.
def is_durable(name: str) -> bool:
    """Whether a durable of a consumer could have this name."""
    try:
        Durable.parse(name)
    except InvalidName:
        return False
    return is_name(name)


def reader_name(reader: str) -> str:
    """The name at the server of what ``reader`` (``relay``, a durable...) reads streams through.
    No durable can be called so."""
    return f"seaway-reader-{reader}"


def check_filter(pattern: str) -> str:
    """``pattern`` itself, if it is a subject that may hold ``*`` tokens and end in ``>``."""
    tokens = pattern.split(".") if isinstance(pattern, str) else [""]
    for place, token in enumerate(tokens):
        last = place == len(tokens) - 1
        if token == "*" or (token == ">" and last) or _TOKEN.fullmatch(token):
            continue
        raise InvalidName(
            f"filter {pattern!r} has an invalid token {token!r}",
            hint="'*' stands for one token, '>' only at the end",
        )
    return pattern


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject that ``subject`` (a subject or filter) matches is in ``pattern``."""
    wide, narrow = pattern.split("."), subject.split(".")
    for place, token in enumerate(wide):
        if token == ">":
            return len(narrow) > place
        if place >= len(narrow):
            return False
        if token == "*":
            if narrow[place] == ">":
                return False
        elif token != narrow[place]:
            return False
    return len(wide) == len(narrow)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both filters. The server refuses such pairs in one stream."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">" or b == ">":
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)
