"""Health: from a snapshot to findings, each with its value, its threshold and the next move.

Owns: what is ok, a warning or critical. Pure. Must not know how a report is shown.

| check                       | warning               | critical                          |
| --------------------------- | --------------------- | --------------------------------- |
| server                      | (unknown: away)       | without JetStream                 |
| stream                      | advisory stream away  | any other configured stream away  |
| consumer                    |                       | a configured durable is away      |
| stream_full (``discard: new``) | fill > 80 %        | fill > 95 %                       |
| stream_messages_pending     | > threshold           | > 10 x threshold                  |
| consumer_ack_pending        | > threshold           | > 10 x threshold                  |
| consumer_redelivery_count   | > threshold a minute  | > 10 x threshold a minute         |
| outbox_age                  | oldest > 60 s         | oldest > 10 min                   |
| outbox_parked               | any                   |                                   |
| outbox                      | (unknown: the database is away)                          ||
| dead_letters                | any                   |                                   |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from seaway.config import AlertSettings
from seaway.monitor.snapshot import ConsumerView, Snapshot, StreamView
from seaway.naming import ADVISORY_STREAM

FULL_WARNING, FULL_CRITICAL = 0.80, 0.95
OUTBOX_AGE_WARNING_SECONDS, OUTBOX_AGE_CRITICAL_SECONDS = 60, 600
CRITICAL_FACTOR = 10


class State(IntEnum):
    """A finding's state; the values are the exit codes of a Nagios plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def label(self) -> str:
        """Lower case: ``ok``, ``warning``, ``critical``, ``unknown``."""
        return self.name.lower()


# Not being able to look is worse than a warning that was seen.
_WORST_LAST = (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one subject. ``next_move`` is a command or an act, empty where all is well."""

    check: str
    subject: str
    state: State
    message: str
    value: float | None = None
    warning: float | None = None
    critical: float | None = None
    next_move: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst state: critical before unknown before warning before ok."""
        return max((f.state for f in self.findings), key=_WORST_LAST.index, default=State.UNKNOWN)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not ok."""
        return tuple(finding for finding in self.findings if finding.state is not State.OK)


def evaluate(
    snapshot: Snapshot,
    alerts: AlertSettings,
    redeliveries_per_minute: Mapping[tuple[str, str], float] | None = None,
) -> Report:
    """Judge a snapshot. Thresholds are exceeded strictly: 1000 pending of 1000 is ok.

    Without rates (``None``) the redelivery rate is not judged at all.
    """
    found = [*_server(snapshot), *_outbox(snapshot)]
    if snapshot.server_error is None:
        found += _missing(snapshot)
        for stream in snapshot.streams:
            found += _stream(stream)
        for consumer in snapshot.consumers:
            found += _consumer(consumer, alerts, redeliveries_per_minute)
        found += _dead_letters(snapshot)
    return Report(tuple(sorted(found, key=lambda f: -_WORST_LAST.index(f.state))))


def _server(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.server_error is not None:
        yield Finding(
            "server",
            "nats",
            State.UNKNOWN,
            snapshot.server_error,
            next_move="start the server, or correct nats.url",
        )
    elif snapshot.server is not None:
        server = snapshot.server
        yield Finding(
            "server",
            "nats",
            State.OK if server.jetstream else State.CRITICAL,
            f"nats-server {server.version}" + ("" if server.jetstream else " without JetStream"),
            next_move="" if server.jetstream else "start nats-server with -js",
        )


def _missing(snapshot: Snapshot) -> Iterator[Finding]:
    for name in snapshot.missing_streams:
        yield Finding(
            "stream",
            name,
            State.WARNING if name == ADVISORY_STREAM else State.CRITICAL,
            f"stream {name} does not exist",
            next_move="seaway topology apply",
        )
    for stream, durable in snapshot.missing_consumers:
        yield Finding(
            "consumer",
            f"{stream}/{durable}",
            State.CRITICAL,
            f"consumer {durable} of {stream} does not exist",
            next_move="seaway topology apply",
        )


def _stream(stream: StreamView) -> Iterator[Finding]:
    # A stream that discards its oldest is full by design: age and size limits keep it there.
    if stream.fill is None or not stream.refuses_when_full:
        return
    yield _judge(
        "stream_full",
        stream.name,
        stream.fill,
        FULL_WARNING,
        FULL_CRITICAL,
        f"{stream.name} is {stream.fill:.0%} full and refuses what is too much",
        "raise max_bytes, or let consumers catch up",
    )


def _consumer(
    consumer: ConsumerView,
    alerts: AlertSettings,
    rates: Mapping[tuple[str, str], float] | None,
) -> Iterator[Finding]:
    where = f"{consumer.stream}/{consumer.durable}"
    look = f"seaway consumer info {consumer.stream} {consumer.durable}"
    pending, held = alerts.stream_messages_pending, alerts.consumer_ack_pending
    yield _judge(
        "stream_messages_pending",
        where,
        consumer.num_pending,
        pending,
        pending * CRITICAL_FACTOR,
        f"{where} has {consumer.num_pending} messages pending",
        "start more workers, or see why it is slow: " + look,
    )
    yield _judge(
        "consumer_ack_pending",
        where,
        consumer.num_ack_pending,
        held,
        held * CRITICAL_FACTOR,
        f"{where} holds {consumer.num_ack_pending} unacknowledged messages",
        "see whether its handlers hang: " + look,
    )
    if rates is not None and consumer.key in rates:
        rate, limit = rates[consumer.key], alerts.consumer_redelivery_count.per_minute
        yield _judge(
            "consumer_redelivery_count",
            where,
            rate,
            limit,
            limit * CRITICAL_FACTOR,
            f"{where} has {rate:.0f} redeliveries a minute",
            "its handlers fail: see its log and seaway dlq ls",
        )


def _outbox(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.outbox_error is not None:
        yield Finding(
            "outbox",
            "database",
            State.UNKNOWN,
            snapshot.outbox_error,
            next_move="seaway db verify",
        )
    if snapshot.outbox is None:
        return
    age, parked = snapshot.outbox_age_seconds, snapshot.outbox.parked
    yield _judge(
        "outbox_age",
        "outbox",
        age,
        OUTBOX_AGE_WARNING_SECONDS,
        OUTBOX_AGE_CRITICAL_SECONDS,
        f"{snapshot.outbox.count} events wait, the oldest for {age:.0f} s",
        "is a relay running? seaway relay; seaway outbox status",
    )
    yield _judge(
        "outbox_parked",
        "outbox",
        parked,
        0,
        None,
        f"{parked} events are parked",
        "seaway outbox list --parked; seaway outbox retry",
    )


def _dead_letters(snapshot: Snapshot) -> Iterator[Finding]:
    for context, letters in sorted(snapshot.dead_letters.items()):
        yield _judge(
            "dead_letters",
            context,
            letters,
            0,
            None,
            f"{letters} dead letters in {context}",
            "seaway dlq ls; seaway dlq redrive",
        )


def _judge(
    check: str,
    subject: str,
    value: float,
    warning: float,
    critical: float | None,
    message: str,
    next_move: str,
) -> Finding:
    state = State.OK
    if critical is not None and value > critical:
        state = State.CRITICAL
    elif value > warning:
        state = State.WARNING
    return Finding(
        check,
        subject,
        state,
        message,
        value,
        warning,
        critical,
        next_move if state is not State.OK else "",
    )
