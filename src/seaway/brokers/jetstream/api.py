"""JetStream's API: asking it, and what its answers say.

Owns: its subjects (``$JS.API``, or those of a domain or a prefix), its envelope and paging, what
silence means; the err_codes, which nobody else compares (``Refused`` and ``ApiError`` say in
``why`` what a caller acts on, and carry the code for people); which field of its JSON says what,
and what a missing one means: servers leave out what is empty, older ones what they do not know.
Guarantees: what is there and cannot be read never becomes zero: of a stream or a consumer it raises
and names the field, of a publication it leaves that unconfirmed. Sources: nats-server 2.9 to 2.15,
its ``errors.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.wire import Frame
from seaway.contracts import (
    JSON,
    ConsumerInfo,
    PublishOutcome,
    Refused,
    Stored,
    StreamInfo,
    Unconfirmed,
    WhyRefused,
)
from seaway.errors import ApiError, BrokerUnavailable, WhyApi
from seaway.headers import parse_time
from seaway.naming import is_name

T = TypeVar("T")

CONSUMER_CREATE_FAILED = 10012
CONSUMER_NAME_IN_USE = 10013
CONSUMER_EXISTS = 10148
CONSUMER_DOES_NOT_EXIST = 10149
STREAM_INVALID = 10052
STREAM_EXISTS = 10058
STREAM_NOT_FOUND = 10059
SUBJECTS_OVERLAP = 10065
STREAM_FULL = 10077
TOO_LARGE = 10054
ATOMIC_DISABLED = 10174
SCHEDULES_DISABLED = 10188
BAD_TARGET = 10190

_NOT_THERE = frozenset({STREAM_NOT_FOUND, 10014, 10037, 10057, 10043})
"""The stream, the consumer, the message; the last two when it is to be deleted."""
_HEALING = frozenset({10076, 10039, 10167, 10158})
"""JetStream not enabled (server, account), too many requests, the same id being stored just now:
the way out is elsewhere, and the message is fine."""
_REFUSED: Mapping[int, WhyRefused] = {
    STREAM_NOT_FOUND: "no_stream",
    # No room in the stream (whichever of its bounds: the code is one), in the account, in the
    # server's memory or on its disk.
    **dict.fromkeys((STREAM_FULL, 10002, 10023, 10028, 10047), "full"),
    TOO_LARGE: "too_large",
    10097: "unfit",  # More headers than the server takes.
}
_API: Mapping[int, WhyApi] = {
    **dict.fromkeys((10035, 10039, 10076), "no_jetstream"),
    **dict.fromkeys((10005, 10074), "too_many_replicas"),
    SUBJECTS_OVERLAP: "subjects_taken",
}

_PAGING = frozenset({"total", "offset", "limit"})
"""Of the answer, not of the stream."""

PINNED = "pinned_client"
"""The ``priority_policy`` of an exclusive durable."""


class Api:
    """Requests to the JetStream API that the connection's settings name: of its account, in its own
    domain or another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def subject(self, call: str) -> str:
        """Where ``call`` (``STREAM.INFO.SEA_EVENTS``) is asked for."""
        return f"{self._connection.settings.api}.{call}"

    async def call(self, subject: str, body: JSON | None = None) -> JSON:
        """The answer's JSON, without its ``type``.

        ``ApiError`` where the server refuses, ``BrokerUnavailable`` where nobody answers.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        asked = self.subject(subject)
        return self._read(asked, await self._connection.request(asked, payload))

    async def find(self, call: str, *names: str, body: JSON | None = None) -> JSON | None:
        """Like ``call``, about the stream or consumer of these names; ``None`` where it, or the
        message that is meant, is not there.

        Nothing but a name is sent as one: letters and advisories bring what a stranger wrote.
        """
        if not all(map(is_name, names)):
            return None
        try:
            return await self.call(".".join((call, *names)), body)
        except ApiError as error:
            if error.err_code in _NOT_THERE:
                return None
            raise

    async def pages(self, subject: str, field: str) -> Sequence[JSON]:
        """All entries of a paged list, in the server's order."""
        found: list[JSON] = []
        while True:
            page = await self.call(subject, {"offset": len(found)})
            entries = page.get(field) or []
            found += entries
            if not entries or len(found) >= int(page.get("total", 0)):
                return found

    def _read(self, subject: str, answer: Frame) -> JSON:
        if answer.status == "503":
            raise BrokerUnavailable(self._unanswered(subject))
        try:
            content, refusal = _parsed(answer)
        except ValueError as error:
            raise BrokerUnavailable(f"{subject}: the answer cannot be read") from error
        if refusal is not None:
            raise api_error(**refusal)
        content.pop("type", None)
        return content

    def _unanswered(self, subject: str) -> str:
        settings = self._connection.settings
        if settings.jetstream_domain is not None:
            why = (
                f"no domain {settings.jetstream_domain!r} can be reached through "
                f"{settings.redacted_url}, or its JetStream has no leader"
            )
        elif settings.jetstream_api_prefix is not None:
            why = "no JetStream is under this prefix, or it has no leader"
        elif not self._connection.server_info().jetstream:
            return (
                f"JetStream is not enabled on {settings.redacted_url}: start nats-server with -js"
            )
        else:
            why = "JetStream has no leader"
        return f"nobody answers {subject}: {why}"


def _parsed(answer: Frame) -> tuple[JSON, JSON | None]:
    """What an answer says, and what a refusal in it does. ``ValueError`` where it is no answer."""
    try:
        content: JSON = json.loads(answer.data)
        error = content.get("error")
        if error is None:
            return content, None
        return content, {
            "description": str(error.get("description", "refused")),
            "code": int(error.get("code", 0)),
            "err_code": int(error.get("err_code", 0)),
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{answer.data[:80]!r} is not an answer") from error


# ------------------------------------------------------------------ refusals and acknowledgements


def refused(description: str, *, code: int, err_code: int) -> Refused:
    """Of a message that a server refused, or would."""
    why = _REFUSED.get(err_code, "other")
    if code == 400 and err_code == 0:
        why = "unfit"
    heals = code >= 500 or err_code in _HEALING or why in ("full", "no_stream")
    return Refused(description, code, err_code, heals=heals, why=why)


def api_error(description: str, *, code: int, err_code: int) -> ApiError:
    """Of a request that a server refused, or would."""
    return ApiError(description, code=code, err_code=err_code, why=_API.get(err_code, "other"))


def classify(answer: Frame | None, domain: str | None = None) -> PublishOutcome:
    """``None``: no acknowledgement came. ``domain``: of which it has to be."""
    if answer is None:
        return Unconfirmed("no acknowledgement in time")
    if answer.status == "503":
        return unheard("no stream takes this subject")
    try:
        content, refusal = _parsed(answer)
        if refusal is not None:
            return refused(**refusal)
        taken = content.get("domain", domain)
        if domain is not None and taken != domain:
            # Two domains have a stream of this subject: ours may not have it yet.
            return Unconfirmed(
                f"a stream of the domain {taken!r} takes this subject too: it says nothing of "
                f"the one of {domain!r}"
            )
        return Stored(int(content["seq"]), bool(content.get("duplicate", False)))
    except (ValueError, KeyError, TypeError):
        return Unconfirmed("the acknowledgement cannot be read")


def concerns_the_stream(outcome: PublishOutcome) -> bool:
    """Whether trying further messages now would only find the same. What is denied is denied to a
    subject, and others need not be; nor is what has no room."""
    if isinstance(outcome, Refused):
        return outcome.heals and outcome.why not in ("full", "denied")
    return isinstance(outcome, Unconfirmed)


def denied(subject: str) -> Refused:
    """Of a message whose subject the server does not let us publish to: nothing is wrong with the
    message, and the right may be granted any time."""
    return Refused(f"no permission to publish to {subject}", 403, 0, heals=True, why="denied")


def unheard(description: str) -> Refused:
    """Of a message that was not sent, or that no stream was there for."""
    return Refused(description, 503, 0, heals=True, why="unheard")


# ------------------------------------------------------------------ streams and consumers


def stream_info(answer: JSON) -> StreamInfo:
    """Of STREAM.INFO, and of an entry of STREAM.LIST. ``BrokerUnavailable`` where it is neither."""
    info = _Part("a stream", answer)
    info.what = name = info.part("config").text("name")
    config, state, cluster = info.part("config"), info.part("state"), info.part("cluster", {})
    messages = state.number("messages")
    per_subject = config.limit("max_msgs_per_subject")
    refuses = config.text("discard", "old") == "new"
    return StreamInfo(
        name=name,
        subjects=config.texts("subjects"),
        created=info.moment("created"),
        retention=config.text("retention", "limits"),
        messages=messages,
        bytes=state.number("bytes"),
        first_seq=state.number("first_seq"),
        last_seq=state.number("last_seq"),
        consumer_count=state.number("consumer_count", 0),
        num_deleted=state.number("num_deleted", 0),
        num_subjects=state.number("num_subjects", 0),
        # Of an empty one, they are of what it held once, or the year one.
        first_at=state.time("first_ts") if messages else None,
        last_at=state.time("last_ts") if messages else None,
        storage=config.text("storage", "file"),
        max_bytes=config.limit("max_bytes"),
        max_messages=config.limit("max_msgs"),
        max_messages_per_subject=per_subject,
        max_message_bytes=config.limit("max_msg_size"),
        duplicate_window=config.span("duplicate_window", timedelta()),
        refuses_when_full=refuses,
        refuses_per_subject=refuses and config.flag("discard_new_per_subject"),
        replicas=config.number("num_replicas", 1),
        cluster=cluster.text("name", "") or None,
        leader=cluster.text("leader", "") or None,
        domain=info.text("domain", "") or None,
        subject_messages=state.mapping("subjects", int),
        metadata=config.mapping("metadata", str),
        schedules=config.flag("allow_msg_schedules"),
        max_age=config.span("max_age", timedelta()) or None,
        asked_at=info.time("ts"),
        document={name: value for name, value in answer.items() if name not in _PAGING},
    )


def consumer_info(answer: JSON) -> ConsumerInfo:
    """Of CONSUMER.INFO, and of an entry of CONSUMER.LIST. ``BrokerUnavailable`` where it is
    neither."""
    info = _Part("a consumer", answer)
    stream, name = info.text("stream_name"), info.text("name")
    info.what = f"{stream} > {name}"
    config, delivered, floor = info.part("config"), info.part("delivered"), info.part("ack_floor")
    active = [one for one in (delivered.time("last_active"), floor.time("last_active")) if one]
    filters = config.texts("filter_subjects")
    groups = info.parts("priority_groups")
    return ConsumerInfo(
        stream=stream,
        durable=name,
        created=info.moment("created"),
        num_pending=info.number("num_pending"),
        num_ack_pending=info.number("num_ack_pending"),
        num_redelivered=info.number("num_redelivered"),
        num_waiting=info.number("num_waiting"),
        consumer_seq=delivered.number("consumer_seq"),
        stream_seq=delivered.number("stream_seq"),
        ack_floor=floor.number("stream_seq"),
        filters=filters or tuple(filter(None, [config.text("filter_subject", "")])),
        ack_wait=config.span("ack_wait", timedelta(seconds=30)),
        max_deliver=config.limit("max_deliver"),
        max_ack_pending=config.limit("max_ack_pending"),
        ephemeral=not config.text("durable_name", ""),
        pulled=not config.text("deliver_subject", ""),
        exclusive=config.text("priority_policy", "none") == PINNED,
        given_to_one_since=next(
            (one.time("pinned_ts") for one in groups if one.text("pinned_client_id", "")), None
        ),
        paused_until=config.time("pause_until") if info.flag("paused") else None,
        asked_at=info.time("ts"),
        last_active_at=max(active, default=None),
        document=answer,
    )


@dataclass(slots=True)
class _Part:
    """An object of an answer about ``what``. A field without a default has to be there."""

    what: str
    values: Mapping[str, Any]
    path: str = ""

    def number(self, name: str, default: int | None = None) -> int:
        return self._read(name, int, default)

    def text(self, name: str, default: str | None = None) -> str:
        return self._read(name, str, default)

    def flag(self, name: str) -> bool:
        return self._read(name, bool, False)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._each(name, self._read(name, list, []), str))

    def mapping(self, name: str, kind: type[T]) -> dict[str, T]:
        found = self._read(name, dict, {})
        return dict(zip(found, self._each(name, list(found.values()), kind), strict=True))

    def part(self, name: str, default: JSON | None = None) -> _Part:
        return _Part(self.what, self._read(name, dict, default), f"{self.path}{name}.")

    def parts(self, name: str) -> list[_Part]:
        found = self._each(name, self._read(name, list, []), dict)
        return [_Part(self.what, one, f"{self.path}{name}.") for one in found]

    def limit(self, name: str) -> int | None:
        """``None`` for 0 and below, which is what servers call unlimited."""
        value = self.number(name, 0)
        return value if value > 0 else None

    def span(self, name: str, default: timedelta) -> timedelta:
        """Nanoseconds; to the microsecond."""
        value = self.number(name, 0)
        return timedelta(microseconds=value // 1000) if value else default

    def moment(self, name: str) -> str:
        """The text of a time, which names what was made then."""
        text = self.text(name)
        self._time(name, text)
        return text

    def time(self, name: str) -> datetime | None:
        text = self.text(name, "")
        return self._time(name, text) if text else None

    def _time(self, name: str, text: str) -> datetime:
        try:
            return parse_time(text)
        except ValueError:
            raise self._unreadable(name, text) from None

    def _read(self, name: str, kind: type[T], default: T | None) -> T:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        [read] = self._each(name, [value], kind)
        return read

    def _each(self, name: str, values: list[Any], kind: type[T]) -> list[T]:
        for value in values:
            if type(value) is not kind:  # A bool is an int.
                raise self._unreadable(name, value)
        return values

    def _unreadable(self, name: str, value: object) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"the server's answer about {self.what} cannot be read: {self.path}{name} is "
            f"{value!r:.80}"
        )
