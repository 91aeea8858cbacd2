"""Monitoring: what server, streams, consumers and outbox look like, and what is wrong.

Owns: the snapshot (pure data), the redelivery count, the metrics, the checks and the alert rules.
Must not know: who shows them. Guarantees: figures come from STREAM.INFO and CONSUMER.INFO of the
leader, never from lists; a server or database that is away, or hangs, is a finding in bounded time,
not an exception.

    Watch ──> Sampler ──> Sample(snapshot, redeliveries) ──> evaluate ──> Report
                                     └──> exposition (metrics)
"""

from seaway.monitor.alerts import alert_rules
from seaway.monitor.checks import evaluate, judged
from seaway.monitor.findings import Finding, Report, State
from seaway.monitor.metrics import CONTENT_TYPE, Activity, exposition
from seaway.monitor.sampler import Sample, Sampler, recent_rates
from seaway.monitor.scraping import MetricsApp, serving
from seaway.monitor.snapshot import Database, Snapshot, Station, Watch, age_seconds
from seaway.monitor.standstill import why_events_wait

__all__ = [
    "CONTENT_TYPE",
    "Activity",
    "Database",
    "Finding",
    "MetricsApp",
    "Report",
    "Sample",
    "Sampler",
    "Snapshot",
    "State",
    "Station",
    "Watch",
    "age_seconds",
    "alert_rules",
    "evaluate",
    "exposition",
    "judged",
    "recent_rates",
    "serving",
    "why_events_wait",
]
