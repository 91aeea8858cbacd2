"""``/metrics``: a sample and the process's own activity in Prometheus' text format.

Owns: metric names, types and labels (part of the public API). Guarantees: the three names of the
contract come out exactly as written there; all else begins with ``seaway_`` and ends in its unit
or ``_total``; labels are names of streams, durables, contexts and fixed words, never ids or
subjects. What could not be asked is left out, so that a stale figure never looks like a fresh one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seaway.contracts import Backlog, Notice
from seaway.monitor.findings import Report
from seaway.monitor.sampler import Sample
from seaway.telemetry import (
    DeadLettered,
    Delivered,
    Disconnected,
    Healed,
    NotHealed,
    Parked,
    Reconnected,
    Relayed,
    RelayPaused,
    RelayResumed,
    Relettered,
    SetBack,
    Signal,
    ThreadsLost,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REDELIVERIES = "consumer_redelivery_count"


@dataclass(slots=True)
class Activity:
    """What this process has done since it started; ``telemetry.subscribe(activity.listen)``."""

    published: Counter[tuple[str]] = field(default_factory=Counter)
    duplicates: Counter[tuple[str]] = field(default_factory=Counter)
    failed: Counter[tuple[str]] = field(default_factory=Counter)
    deliveries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    handling_seconds: defaultdict[tuple[str, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    dead_letters: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    healed: Counter[tuple[str]] = field(default_factory=Counter)
    unhealed: Counter[tuple[str]] = field(default_factory=Counter)
    set_back: Counter[tuple[str, str]] = field(default_factory=Counter)
    relettered: Counter[tuple[str]] = field(default_factory=Counter)
    lost_threads: dict[tuple[str], int] = field(default_factory=dict)
    parked: int = 0
    reconnects: int = 0
    disconnects: int = 0
    relay_paused: bool = False

    def listen(self, signal: Signal) -> None:
        """Count one signal."""
        match signal:
            case Relayed(stream=stream, sent=sent, duplicates=duplicates, failed=failed):
                self.published[stream,] += sent
                self.duplicates[stream,] += duplicates
                self.failed[stream,] += failed
            case Delivered(stream=stream, consumer=consumer, outcome=outcome, took=took):
                self.deliveries[stream, consumer, outcome] += 1
                self.handling_seconds[stream, consumer] += took.total_seconds()
            case DeadLettered(stream=stream, consumer=consumer, reason=reason):
                self.dead_letters[stream, consumer, reason] += 1
            case Healed(stream=stream, events=events):
                self.healed[stream,] += events
            case NotHealed(stream=stream, events=events):
                self.unhealed[stream,] += max(events, 1)
            case SetBack(stream=stream, consumer=consumer):
                self.set_back[stream, consumer] += 1
            case Relettered(stream=stream, letters=letters):
                self.relettered[stream,] += letters
            case ThreadsLost(consumer=consumer, lost=lost):
                self.lost_threads[consumer,] = lost
            case RelayPaused():
                self.relay_paused = True
            case RelayResumed():
                self.relay_paused = False
            case Parked():
                self.parked += 1
            case Reconnected():
                self.reconnects += 1
            case Disconnected():
                self.disconnects += 1
            case _:
                pass


def exposition(
    sample: Sample,
    activity: Activity | None = None,
    report: Report | None = None,
    more: Iterable[Metric] = (),
) -> str:
    """The text of ``/metrics``; with ``report``, the state of each check as well, and ``more``."""
    families = list(_of_sample(sample))
    if activity is not None:
        families += _of_activity(activity)
    if report is not None:
        states = (((one.check, one.subject), one.state) for one in report.findings)
        text = "0 ok, 1 warning, 2 critical, 3 unknown."
        families.append(gauges("seaway_check_state_code", text, ("check", "subject"), states))
    families += more
    return _text(families) + "".join(_redeliveries(sample))


def activity_exposition(activity: Activity) -> str:
    """The text of ``/metrics`` of a process that works and watches nothing."""
    return _text(_of_activity(activity))


@dataclass(frozen=True)
class _Families:
    """Metrics that are known already, as a collector."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _text(families: Iterable[Metric]) -> str:
    from prometheus_client import generate_latest  # It brings a web server along.

    return generate_latest(_Families(families)).decode()


def _redeliveries(sample: Sample) -> Iterator[str]:
    # prometheus-client renames every counter to *_total; the contract's name has no suffix.
    yield f"# HELP {REDELIVERIES} Redeliveries seen since this process began to watch.\n"
    yield f"# TYPE {REDELIVERIES} counter\n"
    for consumer in sample.snapshot.consumers:
        labels = f'stream="{_escape(consumer.stream)}",consumer="{_escape(consumer.durable)}"'
        yield f"{REDELIVERIES}{{{labels}}} {sample.redeliveries.get(consumer.key, 0)}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_CONSUMER, _STREAM = ("stream", "consumer"), ("stream",)


def _of_sample(sample: Sample) -> Iterator[Metric]:
    snapshot = sample.snapshot
    consumers, streams = snapshot.consumers, snapshot.streams
    yield gauges(
        "stream_messages_pending",
        "Messages not yet delivered.",
        _CONSUMER,
        ((one.key, one.num_pending) for one in consumers),
    )
    yield gauges(
        "consumer_ack_pending",
        "Messages delivered, not yet acknowledged.",
        _CONSUMER,
        ((one.key, one.num_ack_pending) for one in consumers),
    )
    yield gauges(
        "seaway_consumer_never_pulled_bool",
        "1 while no process has ever asked the durable for messages.",
        _CONSUMER,
        ((one.key, one.never_pulled) for one in consumers),
    )
    answers = snapshot.server_error is None
    yield gauge("seaway_server_up_bool", "1 while the NATS server answers.", answers)
    messages = (((one.name,), one.messages) for one in streams)
    yield gauges("seaway_stream_messages", "Messages in the stream.", _STREAM, messages)
    size = (((one.name,), one.bytes) for one in streams)
    yield gauges("seaway_stream_bytes", "Bytes in the stream.", _STREAM, size)
    fill = (((one.name,), one.fill) for one in streams)
    text = "0 to 1 of the stream's nearest limit."
    yield gauges("seaway_stream_fill_ratio", text, _STREAM, fill)
    letters = (((context,), count) for context, count in sorted(snapshot.dead_letters.items()))
    yield gauges("seaway_dead_letter_messages", "Dead letters waiting.", ("context",), letters)
    unseen: Counter[tuple[str]] = Counter()
    for one in snapshot.unseen:
        unseen[one.action,] += one.entries
    text = "Entries of the log that nobody has said to know."
    yield gauges("seaway_log_unseen_entries", text, ("action",), sorted(unseen.items()))
    if snapshot.processes is not None:
        yield from _of_processes(snapshot.processes)
    if snapshot.outbox is not None or snapshot.outbox_error is not None:
        answers = snapshot.outbox_error is None
        yield gauge("seaway_database_up_bool", "1 while the outbox's database answers.", answers)
    if snapshot.outbox is not None:
        yield from _of_outbox(snapshot.outbox, snapshot.outbox_age_seconds)


def _of_processes(processes: Iterable[Notice]) -> Iterator[Metric]:
    at_work: dict[str, set[str]] = {}
    waits: Counter[str] = Counter()
    for one in sorted((one for one in processes if one.live), key=lambda one: one.part):
        at_work.setdefault(one.part, set()).add(one.process)
        waits[one.part] += one.waits
    there = (((part,), len(names)) for part, names in at_work.items())
    text = "Processes with this part at work on the database."
    yield gauges("seaway_processes", text, ("part",), there)
    waiting = (((part,), count) for part, count in waits.items())
    text = "What they say that they wait for."
    yield gauges("seaway_process_waits", text, ("part",), waiting)


def _of_outbox(backlog: Backlog, age_seconds: float) -> Iterator[Metric]:
    """What waits, and what the database guesses about its tables; nothing where it does not."""
    for name, text, value in (
        ("seaway_outbox_events", "Events in the outbox, parked ones included.", backlog.count),
        (
            "seaway_outbox_parked_events",
            "Events that wait for an operator.",
            backlog.parked,
        ),
        (
            "seaway_outbox_oldest_age_seconds",
            "Age of the oldest event not parked.",
            age_seconds,
        ),
        (
            "seaway_outbox_dead_rows",
            "Settled rows of the outbox that are not vacuumed yet, as estimated.",
            backlog.dead_rows,
        ),
        (
            "seaway_sent_dead_rows",
            "Rows of sent events that were deleted and not vacuumed yet, as estimated.",
            backlog.sent_dead_rows,
        ),
        ("seaway_inbox_rows", "Rows of the inbox, as estimated.", backlog.inbox_rows),
        (
            "seaway_inbox_dead_rows",
            "Rows of the inbox that were deleted and not vacuumed yet, as estimated.",
            backlog.inbox_dead_rows,
        ),
    ):
        if value is not None:
            yield gauge(name, text, value)


def _of_activity(did: Activity) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    outcome, reason = (*_CONSUMER, "outcome"), (*_CONSUMER, "reason")
    for name, text, labels, values in (
        ("seaway_relay_published", "Events published and settled.", _STREAM, did.published),
        ("seaway_relay_duplicates", "Of those, on the stream before.", _STREAM, did.duplicates),
        ("seaway_relay_failures", "Publishes that were refused.", _STREAM, did.failed),
        ("seaway_deliveries", "Deliveries ended.", outcome, did.deliveries),
        ("seaway_handling_seconds", "Time spent on deliveries.", _CONSUMER, did.handling_seconds),
        ("seaway_dead_letters", "Letters stored.", reason, did.dead_letters),
        (
            "seaway_healed_events",
            "Events that their stream had lost, published again.",
            _STREAM,
            did.healed,
        ),
        (
            "seaway_unhealed_losses",
            "What a stream lost that could not be published again.",
            _STREAM,
            did.unhealed,
        ),
        (
            "seaway_set_backs",
            "Times a durable was set back, since its stream had lost messages.",
            _CONSUMER,
            did.set_back,
        ),
        (
            "seaway_relettered",
            "Dead letters that their queue had lost, made again.",
            _STREAM,
            did.relettered,
        ),
    ):
        family = CounterMetricFamily(name, text, labels=labels)
        for key, value in sorted(values.items()):
            family.add_metric(key, value)
        yield family
    text = "Threads of plain handlers that do not come back from their deadline."
    yield gauges("seaway_lost_threads", text, ("consumer",), did.lost_threads.items())
    yield CounterMetricFamily("seaway_parked", "Events parked.", value=did.parked)
    yield CounterMetricFamily("seaway_reconnects", "Reconnections.", value=did.reconnects)
    yield CounterMetricFamily("seaway_disconnects", "Connections lost.", value=did.disconnects)
    paused = did.relay_paused
    yield gauge("seaway_relay_paused_bool", "1 while the relay cannot publish.", paused)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, text, value=float(value))


def gauges(
    name: str,
    text: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], float | None]],
) -> Metric:
    """A gauge with a value for each tuple of labels; ``None``: that has none."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    return family
