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
| waiting                     | a live process waits  | for > 10 min                      |
| consumer_standstill         | nothing for > 60 s    | surely for > 10 min               |
| outbox_parked               | any                   |                                   |
| outbox                      | (unknown: the database is away)                          ||
| dead_letters                | any                   |                                   |
| log                         | an entry nobody saw   |                                   |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from seaway.config import AlertSettings
from seaway.contracts import REWINDS_SINCE, ConsumerInfo, StreamInfo
from seaway.monitor import standstill
from seaway.monitor.findings import WORST_LAST, Finding, Report, State, judge
from seaway.monitor.sampler import Sample, recent_rates
from seaway.monitor.snapshot import Snapshot
from seaway.naming import ADVISORY_STREAM
from seaway.words import counted

FULL_WARNING, FULL_CRITICAL = 0.80, 0.95
CRITICAL_FACTOR = 10


def evaluate(
    snapshot: Snapshot,
    alerts: AlertSettings,
    redeliveries_per_minute: Mapping[tuple[str, str], float] | None = None,
    unmoved: Mapping[tuple[str, str], float] | None = None,
) -> Report:
    """Judge a snapshot. Thresholds are exceeded strictly: 1000 pending of 1000 is ok.

    Without rates (``None``) the redelivery rate is not judged at all. ``unmoved``: for how many
    seconds nothing has happened to a durable, as far as was watched (``Sample.unmoved``).
    """
    found = [*_server(snapshot), *_outbox(snapshot), *standstill.waiting(snapshot)]
    found += _log(snapshot)
    if snapshot.server_error is None:
        found += _missing(snapshot)
        for stream in snapshot.streams:
            found += _stream(stream)
        for consumer in snapshot.consumers:
            found += _consumer(consumer, alerts, redeliveries_per_minute)
        found += standstill.consumers(snapshot, unmoved or {})
        found += _dead_letters(snapshot)
    return Report(tuple(sorted(found, key=lambda f: -WORST_LAST.index(f.state))))


def judged(sample: Sample, history: Sequence[Sample], alerts: AlertSettings) -> Report:
    """``evaluate`` of ``sample``, the last of ``history``, with the rates that this shows."""
    return evaluate(sample.snapshot, alerts, recent_rates(history), sample.unmoved)


def _server(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.server_error is not None:
        yield Finding(
            "server",
            "nats",
            State.UNKNOWN,
            snapshot.server_error,
            next_move="grant a watcher its rights: seaway permissions watcher"
            if snapshot.server_denied
            else "start the server, or correct nats.url",
        )
    elif snapshot.server is not None:
        server, said, move = snapshot.server, "", ""
        if not server.jetstream:
            said, move = " without JetStream", "start nats-server with -js"
        elif () < server.release < REWINDS_SINCE and not server.elsewhere:
            said, move = ", too old to keep order by key over a crash", "upgrade to 2.14 or newer"
        yield Finding(
            "server",
            "nats",
            State.OK if server.jetstream else State.CRITICAL,
            f"nats-server {server.version}{said}",
            next_move=move,
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


def _stream(stream: StreamInfo) -> Iterator[Finding]:
    # A stream that discards its oldest is full by design: age and size limits keep it there.
    if not stream.refuses_when_full:
        return
    if stream.fill is not None:
        yield judge(
            "stream_full",
            stream.name,
            stream.fill,
            FULL_WARNING,
            FULL_CRITICAL,
            f"{stream.name} is {stream.fill:.0%} full of its {stream.nearest_limit} "
            "and refuses what is too much",
            f"raise {stream.nearest_limit}, or let consumers catch up",
        )
    if stream.full_subjects:
        yield judge(
            "stream_subjects_full",
            stream.name,
            len(stream.full_subjects),
            0,
            None,
            f"{stream.name} refuses what is too much on "
            f"{counted(len(stream.full_subjects), 'subject')}, such as {stream.full_subjects[0]}",
            "raise max_msgs_per_subject, or let consumers catch up",
        )


def _consumer(
    consumer: ConsumerInfo,
    alerts: AlertSettings,
    rates: Mapping[tuple[str, str], float] | None,
) -> Iterator[Finding]:
    where = f"{consumer.stream}/{consumer.durable}"
    look = f"seaway consumer info {consumer.stream} {consumer.durable}"
    pending, held = alerts.stream_messages_pending, alerts.consumer_ack_pending
    if not consumer.never_pulled:  # It is told as that, and waits for nobody.
        yield judge(
            "stream_messages_pending",
            where,
            consumer.num_pending,
            pending,
            pending * CRITICAL_FACTOR,
            f"{where} has {counted(consumer.num_pending, 'message')} pending",
            "start more workers, or see why it is slow: " + look,
        )
    yield judge(
        "consumer_ack_pending",
        where,
        consumer.num_ack_pending,
        held,
        held * CRITICAL_FACTOR,
        f"{where} holds {counted(consumer.num_ack_pending, 'unacknowledged message')}",
        "see whether its handlers hang: " + look,
    )
    if rates is not None and consumer.key in rates:
        rate, limit = rates[consumer.key], alerts.consumer_redelivery_count.per_minute
        yield judge(
            "consumer_redelivery_count",
            where,
            rate,
            limit,
            limit * CRITICAL_FACTOR,
            f"{where} has {counted(round(rate), 'redelivery', 'redeliveries')} a minute",
            "its handlers fail: see its log and seaway dlq ls",
        )


def _outbox(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.outbox_error is not None:
        yield Finding(
            "outbox",
            "database",
            State.UNKNOWN,
            snapshot.outbox_error,
            next_move="seaway db upgrade"
            if snapshot.tables_unfit
            else "is it running, and who holds its locks? seaway db verify",
        )
    yield from standstill.outbox(snapshot)
    if snapshot.outbox is None:
        return
    parked = snapshot.outbox.parked
    yield judge(
        "outbox_parked",
        "outbox",
        parked,
        0,
        None,
        f"{counted(parked, 'event is', 'events are')} parked",
        "seaway outbox list --parked; seaway outbox retry",
    )


def _log(snapshot: Snapshot) -> Iterator[Finding]:
    """What was done by itself and nobody has said to know: one finding for each kind and thing."""
    for action, about, entries, events, entry, reason in snapshot.unseen:
        said = f" {counted(events, 'event')}" if events else ""
        yield judge(
            "log",
            f"{about}/{action}",
            entries,
            0,
            None,
            f"{about}: {action}{said}{': ' if reason else ''}{reason}",
            f"seaway log show {entry}; once it is known: seaway log seen --all",
        )


def _dead_letters(snapshot: Snapshot) -> Iterator[Finding]:
    for context, letters in sorted(snapshot.dead_letters.items()):
        yield judge(
            "dead_letters",
            context,
            letters,
            0,
            None,
            f"{counted(letters, 'dead letter')} in {context}",
            "seaway dlq ls; seaway dlq redrive",
        )
