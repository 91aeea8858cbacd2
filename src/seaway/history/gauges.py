"""An audit's answer in Prometheus' text format. Names, types and labels are public."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from seaway.history.findings import OF_CONSUMERS, SAID, Report
from seaway.monitor.metrics import gauge, gauges

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_NAMES = {
    "missing": "seaway_audit_missing_events",
    "twice": "seaway_audit_twice_events",
    "foreign": "seaway_audit_foreign_events",
    "no_effect": "seaway_audit_no_effect_events",
    "effect_and_letter": "seaway_audit_effect_and_letter_events",
    "letter_without_event": "seaway_audit_letters_without_event",
}
_STREAM, _CONSUMER = ("stream",), ("stream", "consumer")


def families(report: Report | None) -> Iterator[Metric]:
    """Nothing before the first look is done. Of a look that could not reach everything, what it
    reached."""
    if report is None:
        return
    consumers = [(one, each) for one in report.streams for each in one.consumers]
    for kind, words in SAID.items():
        text = f"Events: {words}."
        if kind in OF_CONSUMERS:
            yield gauges(
                _NAMES[kind],
                text,
                _CONSUMER,
                (
                    ((one.stream, each.durable), report.of(kind, one.stream, each.durable))
                    for one, each in consumers
                ),
            )
        else:
            counts = (
                ((one.stream,), report.of(kind, one.stream))
                for one in report.streams
                if one.written
            )
            yield gauges(_NAMES[kind], text, _STREAM, counts)
    yield gauges(
        "seaway_audit_proven_timestamp_seconds",
        "Up to then, all that was committed is proven to be on the stream.",
        _STREAM,
        (((one.stream,), _seconds(one.proven)) for one in report.streams),
    )
    yield gauges(
        "seaway_audit_consumer_proven_timestamp_seconds",
        "Up to then, all events are proven to have their effect or their letter.",
        _CONSUMER,
        (((one.stream, each.durable), _seconds(each.proven)) for one, each in consumers),
    )
    yield gauge("seaway_audit_up_bool", "1 while the audit reaches all stations.", not report.away)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
