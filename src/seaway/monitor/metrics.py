"""``/metrics``: a sample and the process's own activity in Prometheus' text format.

Owns: metric names, types and labels (part of the public API). Guarantees: the three names of the
contract come out exactly as written there; all else begins with ``seaway_`` and ends in its unit
or ``_total``; labels are names of streams, durables, contexts and fixed words, never ids or
subjects. What could not be asked is left out, so that a stale figure never looks like a fresh one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from seaway.contracts import Backlog, Notice
from seaway.monitor.findings import Report
from seaway.monitor.sampler import Sample
from seaway.telemetry import (
    DeadLettered,
    Delivered,
    Disconnected,
    Parked,
    Reconnected,
    Relayed,
    RelayPaused,
    RelayResumed,
    Signal,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REDELIVERIES = "consumer_redelivery_count"


@dataclass(slots=True)
class Activity:
    """What this process has done since it started; ``telemetry.subscribe(activity.listen)``."""

    published: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    handling_seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    dead_letters: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    parked: int = 0
    reconnects: int = 0
    disconnects: int = 0
    relay_paused: bool = False

    def listen(self, signal: Signal) -> None:
        """Count one signal."""
        match signal:
            case Relayed(stream=stream, sent=sent, duplicates=duplicates, failed=failed):
                self.published[stream] += sent
                self.duplicates[stream] += duplicates
                self.failed[stream] += failed
            case Delivered(stream=stream, consumer=consumer, outcome=outcome, took=took):
                self.deliveries[stream, consumer, outcome] += 1
                key = (stream, consumer)
                self.handling_seconds[key] = (
                    self.handling_seconds.get(key, 0.0) + took.total_seconds()
                )
            case DeadLettered(stream=stream, consumer=consumer, reason=reason):
                self.dead_letters[stream, consumer, reason] += 1
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
    sample: Sample, activity: Activity | None = None, report: Report | None = None
) -> str:
    """The text of ``/metrics``; with ``report``, the state of each check as well."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(_of_sample(sample)))
    if activity is not None:
        registry.register(_Families(_of_activity(activity)))
    if report is not None:
        registry.register(_Families(_of_report(report)))
    return generate_latest(registry).decode() + "".join(_redeliveries(sample))


def activity_exposition(activity: Activity) -> str:
    """The text of ``/metrics`` of a process that works and watches nothing."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(_of_activity(activity)))
    return generate_latest(registry).decode()


class _Families(Collector):
    """Metrics that are known already, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _redeliveries(sample: Sample) -> Iterator[str]:
    # prometheus-client renames every counter to *_total; the contract's name has no suffix.
    yield f"# HELP {REDELIVERIES} Redeliveries seen since this process began to watch.\n"
    yield f"# TYPE {REDELIVERIES} counter\n"
    for consumer in sample.snapshot.consumers:
        labels = f'stream="{_escape(consumer.stream)}",consumer="{_escape(consumer.durable)}"'
        yield f"{REDELIVERIES}{{{labels}}} {sample.redeliveries.get(consumer.key, 0)}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _of_sample(sample: Sample) -> Iterator[Metric]:
    snapshot, by_consumer = sample.snapshot, ("stream", "consumer")
    pending = GaugeMetricFamily(
        "stream_messages_pending", "Messages not yet delivered.", labels=by_consumer
    )
    held = GaugeMetricFamily(
        "consumer_ack_pending", "Messages delivered, not yet acknowledged.", labels=by_consumer
    )
    unused = GaugeMetricFamily(
        "seaway_consumer_never_pulled_bool",
        "1 while no process has ever asked the durable for messages.",
        labels=by_consumer,
    )
    for consumer in snapshot.consumers:
        pending.add_metric(consumer.key, consumer.num_pending)
        held.add_metric(consumer.key, consumer.num_ack_pending)
        unused.add_metric(consumer.key, consumer.never_pulled)
    yield from (pending, held, unused)
    yield _gauge(
        "seaway_server_up_bool", "1 while the NATS server answers.", snapshot.server_error is None
    )
    messages = GaugeMetricFamily(
        "seaway_stream_messages", "Messages in the stream.", labels=("stream",)
    )
    size = GaugeMetricFamily("seaway_stream_bytes", "Bytes in the stream.", labels=("stream",))
    fill = GaugeMetricFamily(
        "seaway_stream_fill_ratio", "0 to 1 of the stream's nearest limit.", labels=("stream",)
    )
    for stream in snapshot.streams:
        messages.add_metric((stream.name,), stream.messages)
        size.add_metric((stream.name,), stream.bytes)
        if stream.fill is not None:
            fill.add_metric((stream.name,), stream.fill)
    yield from (messages, size, fill)
    letters = GaugeMetricFamily(
        "seaway_dead_letter_messages", "Dead letters waiting.", labels=("context",)
    )
    for context, count in sorted(snapshot.dead_letters.items()):
        letters.add_metric((context,), count)
    yield letters
    if snapshot.processes is not None:
        yield from _of_processes(snapshot.processes)
    if snapshot.outbox is not None or snapshot.outbox_error is not None:
        yield _gauge(
            "seaway_database_up_bool",
            "1 while the outbox's database answers.",
            snapshot.outbox_error is None,
        )
    if snapshot.outbox is not None:
        yield _gauge(
            "seaway_outbox_events",
            "Events in the outbox, parked ones included.",
            snapshot.outbox.count,
        )
        yield _gauge(
            "seaway_outbox_parked_events",
            "Events that wait for an operator.",
            snapshot.outbox.parked,
        )
        yield _gauge(
            "seaway_outbox_oldest_age_seconds",
            "Age of the oldest event not parked.",
            snapshot.outbox_age_seconds,
        )
        yield from _estimates(snapshot.outbox)


def _of_processes(processes: Iterable[Notice]) -> Iterator[Metric]:
    live = [one for one in processes if one.live]
    there = GaugeMetricFamily(
        "seaway_processes", "Processes with this part at work on the database.", labels=("part",)
    )
    waits = GaugeMetricFamily(
        "seaway_process_waits", "What they say that they wait for.", labels=("part",)
    )
    for part in sorted({one.part for one in live}):
        ours = [one for one in live if one.part == part]
        there.add_metric((part,), len({one.process for one in ours}))
        waits.add_metric((part,), sum(one.waits for one in ours))
    yield from (there, waits)


def _estimates(backlog: Backlog) -> Iterator[Metric]:
    """What the database guesses about its tables; nothing where it does not."""
    for name, text, value in (
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
            yield _gauge(name, text, value)


def _of_activity(activity: Activity) -> Iterator[Metric]:
    for name, text, counted in (
        ("seaway_relay_published", "Events published and settled.", activity.published),
        ("seaway_relay_duplicates", "Of those, on the stream before.", activity.duplicates),
        ("seaway_relay_failures", "Publishes that were refused.", activity.failed),
    ):
        family = CounterMetricFamily(name, text, labels=("stream",))
        for stream, count in sorted(counted.items()):
            family.add_metric((stream,), count)
        yield family
    deliveries = CounterMetricFamily(
        "seaway_deliveries", "Deliveries ended.", labels=("stream", "consumer", "outcome")
    )
    for key, count in sorted(activity.deliveries.items()):
        deliveries.add_metric(key, count)
    yield deliveries
    handling = CounterMetricFamily(
        "seaway_handling_seconds", "Time spent on deliveries.", labels=("stream", "consumer")
    )
    for where, seconds in sorted(activity.handling_seconds.items()):
        handling.add_metric(where, seconds)
    yield handling
    letters = CounterMetricFamily(
        "seaway_dead_letters", "Letters stored.", labels=("stream", "consumer", "reason")
    )
    for key, count in sorted(activity.dead_letters.items()):
        letters.add_metric(key, count)
    yield letters
    yield CounterMetricFamily("seaway_parked", "Events parked.", value=activity.parked)
    yield CounterMetricFamily("seaway_reconnects", "Reconnections.", value=activity.reconnects)
    yield CounterMetricFamily("seaway_disconnects", "Connections lost.", value=activity.disconnects)
    yield _gauge(
        "seaway_relay_paused_bool", "1 while the relay cannot publish.", activity.relay_paused
    )


def _of_report(report: Report) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "seaway_check_state_code",
        "0 ok, 1 warning, 2 critical, 3 unknown.",
        labels=("check", "subject"),
    )
    for finding in report.findings:
        states.add_metric((finding.check, finding.subject), finding.state)
    yield states


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
