"""The judgement of a demo: stream and services against the ledger, and the figures of a run.

Owns: the questions that only a demo has: copies, redrives, projections, latencies. Knows no broker
and no library table. Beside the tables of ``seaway.proof.reconciliation`` it reads those that the
writer keeps (``transactions``, ``rolled_back``, ``doubles``), and each service's ``totals`` under
a schema of its name: ``gather`` shows them to the evidence.
"""

# The only names ever put into the SQL below are this package's own schemas and columns.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from seaway.demo.folder import SERVICE, Folder
from seaway.demo.services import durable
from seaway.proof.reconciliation import Comparison, Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFigures:
    """One consuming service. All but the latencies count events."""

    durable: str
    effects: int
    handled: int
    lost: int
    duplicated: int
    out_of_order: int
    late_by_redrive: int
    unexpected: int
    projection_off: int
    duplicates_suppressed: int
    dead_lettered: int
    redriven: int
    left_dead: int
    latency_p50_seconds: float | None
    latency_p99_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The whole run. ``lost``, ``duplicated`` and ``out_of_order`` sum up stream and services."""

    events: int
    cases: int
    transactions: int
    written: int
    rolled_back: int
    on_stream: int
    sent_again: int
    duplicates_suppressed_by_stream: int
    copies_on_stream: int
    lost: int
    duplicated: int
    out_of_order: int
    unexpected: int
    missing_on_stream: int
    twice_on_stream: int
    out_of_order_on_stream: int
    services: tuple[ServiceFigures, ...]

    @property
    def exact(self) -> bool:
        """Everything committed took effect once and in order, and nothing else did."""
        wrong = self.lost + self.duplicated + self.out_of_order + self.unexpected
        return wrong == 0 and all(
            service.projection_off == 0 and service.left_dead == 0 for service in self.services
        )

    def as_json(self) -> dict[str, Any]:
        """For ``--json``: ``verdict``, then the figures under their names."""
        return {"verdict": "exact" if self.exact else "wrong"} | asdict(self)


_OWN = "SELECT seq, message_id, 0 FROM streamed WHERE message_id = event_id"
_ALL = "SELECT seq, event_id, 0 FROM streamed"
_EFFECTS = "SELECT seq, event_id, redriven FROM effects WHERE consumer = ?"
_PROJECTION_OFF = """
SELECT coalesce(sum(abs(off)), 0) FROM (
    SELECT sum(events) AS off FROM (
        SELECT name, events FROM {service}.totals
        UNION ALL SELECT {counts}, -count(*) FROM ledger GROUP BY {counts})
    GROUP BY name)
"""
_LATENCIES = """
SELECT effects.handled_at - transactions.committed_at AS latency
FROM effects
JOIN ledger ON ledger.event_id = effects.event_id
JOIN transactions ON transactions.tx = ledger.tx
WHERE effects.consumer = ? AND NOT redriven
"""
_COPIES = """
SELECT count(*) FROM streamed
WHERE message_id <> event_id AND event_id IN (SELECT event_id FROM ledger)
"""
_REDRIVEN = "SELECT event_id FROM effects WHERE consumer = ? AND redriven"
_LEFT = "SELECT event_id FROM letters WHERE consumer = ?"


def gather(evidence: Evidence, folder: Folder, services: Mapping[str, str]) -> None:
    """Copy what the databases of the folder hold."""
    for name in (SERVICE, *services):
        evidence.attach(folder.database(name), name)
    evidence.do(f"INSERT INTO main.ledger SELECT * FROM {SERVICE}.ledger")
    for name in services:
        evidence.do(
            "INSERT INTO main.effects"
            f" SELECT seq, consumer, event_id, number, redriven, handled_at FROM {name}.effects"
        )


def reconcile(evidence: Evidence, services: Mapping[str, str]) -> Reconciliation:
    """Count. ``services``: by name, what each service's projection counts by."""
    stream = evidence.compare(_OWN)
    unknown = len(evidence.compare(_ALL).unknown)
    effects = {name: evidence.compare(_EFFECTS, str(durable(name))) for name in services}
    figures = tuple(_service(evidence, name, services[name], effects[name]) for name in services)
    (events, cases) = evidence.one("SELECT count(*), count(DISTINCT key) FROM ledger")
    (rolled_back,) = evidence.one("SELECT count(*) FROM rolled_back")
    (sent_again, suppressed) = evidence.one(
        "SELECT count(*), count(*) FILTER (WHERE suppressed) FROM doubles"
    )
    twice = stream.rows - stream.events
    return Reconciliation(
        events=events,
        cases=cases,
        transactions=evidence.one("SELECT count(*) FROM transactions")[0],
        written=events + rolled_back,
        rolled_back=rolled_back,
        on_stream=stream.events,
        sent_again=sent_again,
        duplicates_suppressed_by_stream=suppressed,
        copies_on_stream=evidence.one(_COPIES)[0],
        lost=len(stream.missing.union(*(found.missing for found in effects.values()))),
        duplicated=twice + sum(service.duplicated for service in figures),
        out_of_order=stream.out_of_order + sum(service.out_of_order for service in figures),
        unexpected=unknown + sum(service.unexpected for service in figures),
        missing_on_stream=len(stream.missing),
        twice_on_stream=twice,
        out_of_order_on_stream=stream.out_of_order,
        services=figures,
    )


def _service(evidence: Evidence, name: str, counts: str, found: Comparison) -> ServiceFigures:
    consumer = str(durable(name))
    redriven, left = evidence.ids(_REDRIVEN, consumer), evidence.ids(_LEFT, consumer)
    taken = "AND event_id IN (SELECT event_id FROM effects WHERE consumer = ?)"
    (copied,) = evidence.one(f"{_COPIES} {taken}", consumer)
    (timed,) = evidence.one(f"SELECT count(*) FROM ({_LATENCIES})", consumer)

    def latency(share: float) -> float | None:
        if not timed:
            return None
        rank = min(timed - 1, int(timed * share))
        ranked = f"{_LATENCIES} ORDER BY latency LIMIT 1 OFFSET {rank}"
        return max(0.0, float(evidence.one(ranked, consumer)[0]))

    return ServiceFigures(
        durable=consumer,
        effects=found.rows,
        handled=found.events,
        lost=len(found.missing),
        duplicated=found.rows - found.events,
        out_of_order=found.out_of_order,
        late_by_redrive=found.excused,
        unexpected=len(found.unknown),
        projection_off=evidence.one(_PROJECTION_OFF.format(service=name, counts=counts))[0],
        duplicates_suppressed=max(0, copied - (found.rows - found.events)),
        dead_lettered=len(redriven | left),
        redriven=len(redriven),
        left_dead=len(left),
        latency_p50_seconds=latency(0.50),
        latency_p99_seconds=latency(0.99),
    )
