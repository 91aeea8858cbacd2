"""Watching the street: what server, streams, consumers and outbox look like, and what is wrong.

Owns: the snapshot (pure data), the redelivery count, the metrics, the checks and the alert rules.
Must not know: who shows them. Guarantees: figures come from STREAM.INFO and CONSUMER.INFO of the
leader, never from lists; a server or database that is away, or hangs, is a finding in bounded time,
not an exception.

    Watch ──> Sampler ──> Sample(snapshot, redeliveries) ──> evaluate ──> Report
                                     └──> exposition (metrics)
"""

from seaway.monitor.alerts import alert_rules
from seaway.monitor.checks import evaluate
from seaway.monitor.findings import Finding, Report, State
from seaway.monitor.metrics import Activity, exposition
from seaway.monitor.sampler import Sample, Sampler, rates
from seaway.monitor.snapshot import (
    Database,
    Snapshot,
    Watch,
)
from seaway.monitor.station import Station

__all__ = [
    "Activity",
    "Database",
    "Finding",
    "Report",
    "Sample",
    "Sampler",
    "Snapshot",
    "State",
    "Station",
    "Watch",
    "alert_rules",
    "evaluate",
    "exposition",
    "rates",
]
