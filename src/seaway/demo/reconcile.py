"""The judgement: what was committed against what is on the stream and what took effect.

Owns: the figures and the questions, in SQL so that memory does not grow with the run. Knows no
broker and no library table: it reads the demo's own ledger, a copy of the stream's headers, the
letters, and each service's effects. Guarantees: every committed event is looked for by its id in
every place where it must be, and everything found there is looked for in the ledger.

The connection given must show these tables, each service's under a schema of its name:

| table                       | a row is                                                      |
| --------------------------- | ------------------------------------------------------------- |
| ``ledger``                  | a committed event: id, case, step within the case, transaction |
| ``transactions``            | a committed transaction and the moment of its commit          |
| ``rolled_back``             | an event whose transaction or savepoint was undone            |
| ``streamed``                | a message of the event stream: place, message id, event id     |
| ``doubles``                 | an event sent again on purpose, and whether the stream took it |
| ``letters``                 | a dead letter, and when it was redriven                       |
| ``{service}.effects``       | one effect, in the order in which they were committed         |
| ``{service}.totals``        | the service's projection: a plain counter under a name        |
"""

# The only names ever put into the SQL below are this package's own schemas and columns.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

EVIDENCE_TABLES = """
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, case_id TEXT NOT NULL,
    step INTEGER NOT NULL, subject TEXT NOT NULL, tx INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
    tx INTEGER PRIMARY KEY, events INTEGER NOT NULL, committed_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rolled_back (event_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS letters (
    service TEXT NOT NULL, event_id TEXT NOT NULL, letter_id TEXT NOT NULL UNIQUE,
    reason TEXT NOT NULL, redriven_at REAL);
CREATE TABLE IF NOT EXISTS doubles (
    event_id TEXT NOT NULL UNIQUE, suppressed INTEGER NOT NULL);
"""
"""Beside the outbox, in the writing service's database."""

STREAM_TABLES = """
DROP TABLE IF EXISTS streamed;
CREATE TABLE streamed (
    stream_seq INTEGER PRIMARY KEY, message_id TEXT NOT NULL, event_id TEXT NOT NULL);
"""
"""A copy of the event stream's headers, read anew for every reconciliation."""

SERVICE_TABLES = """
CREATE TABLE IF NOT EXISTS effects (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL, case_id TEXT NOT NULL,
    subject TEXT NOT NULL, deliveries INTEGER NOT NULL, handled_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, events INTEGER NOT NULL);
"""
"""In each consuming service's database. Nothing makes ``event_id`` unique: a double must show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A consuming service: its schema, its durable, and what its projection counts by."""

    name: str
    durable: str
    counts: Literal["case_id", "subject"]


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


_OUT_OF_ORDER_ON_STREAM = """
SELECT count(*) FROM (
    SELECT ledger.step AS step, max(ledger.step) OVER (
        PARTITION BY ledger.case_id ORDER BY streamed.stream_seq
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM streamed JOIN ledger ON ledger.event_id = streamed.message_id
) WHERE step < reached
"""

_OUT_OF_ORDER = """
SELECT count(*) FILTER (WHERE redriven = 0), count(*) FILTER (WHERE redriven = 1) FROM (
    SELECT ledger.step AS step,
        EXISTS (SELECT 1 FROM letters WHERE letters.service = :service
                AND letters.event_id = effects.event_id) AS redriven,
        max(ledger.step) OVER (
            PARTITION BY ledger.case_id ORDER BY effects.seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM {service}.effects AS effects JOIN ledger ON ledger.event_id = effects.event_id
) WHERE step < reached
"""

_PROJECTION_OFF = """
SELECT coalesce(sum(abs(off)), 0) FROM (
    SELECT sum(events) AS off FROM (
        SELECT name, events FROM {service}.totals
        UNION ALL SELECT {counts}, -count(*) FROM ledger GROUP BY {counts})
    GROUP BY name)
"""

_LATENCIES = """
SELECT effects.handled_at - transactions.committed_at AS latency
FROM {service}.effects AS effects
JOIN ledger ON ledger.event_id = effects.event_id
JOIN transactions ON transactions.tx = ledger.tx
WHERE NOT EXISTS (SELECT 1 FROM letters
    WHERE letters.service = :service AND letters.event_id = effects.event_id)
ORDER BY latency
"""

_COPIES = """
SELECT count(*) FROM streamed
WHERE message_id <> event_id AND event_id IN (SELECT event_id FROM ledger)
"""

_MISSING = """
NOT EXISTS (SELECT 1 FROM {place} AS place WHERE place.{column} = ledger.event_id)
"""


def reconcile(evidence: sqlite3.Connection, services: Sequence[Service]) -> Reconciliation:
    """Read the tables named above and count. Changes nothing but adds indexes where missing."""

    def one(query: str) -> int:
        return int(evidence.execute(query).fetchone()[0])

    def lost(*places: tuple[str, str]) -> int:
        missing = (
            _MISSING.replace("{place}", place).replace("{column}", column)
            for place, column in places
        )
        return one("SELECT count(*) FROM ledger WHERE " + " OR ".join(missing))

    evidence.execute("CREATE INDEX IF NOT EXISTS streamed_by_message ON streamed (message_id)")
    for service in services:
        evidence.execute(
            "CREATE INDEX IF NOT EXISTS {service}.effects_by_event ON effects (event_id)".replace(
                "{service}", service.name
            )
        )
    stream = ("streamed", "message_id")
    effects = {service.name: (f"{service.name}.effects", "event_id") for service in services}
    figures = tuple(
        _service(evidence, service, lost(effects[service.name])) for service in services
    )
    on_stream = one("SELECT count(DISTINCT message_id) FROM streamed WHERE message_id = event_id")
    twice = one("SELECT count(*) FROM streamed WHERE message_id = event_id") - on_stream
    unknown = one(
        "SELECT count(*) FROM streamed WHERE event_id NOT IN (SELECT event_id FROM ledger)"
    )
    disorder = one(_OUT_OF_ORDER_ON_STREAM)
    events = one("SELECT count(*) FROM ledger")
    rolled_back = one("SELECT count(*) FROM rolled_back")
    return Reconciliation(
        events=events,
        cases=one("SELECT count(DISTINCT case_id) FROM ledger"),
        transactions=one("SELECT count(*) FROM transactions"),
        written=events + rolled_back,
        rolled_back=rolled_back,
        on_stream=on_stream,
        sent_again=one("SELECT count(*) FROM doubles"),
        duplicates_suppressed_by_stream=one("SELECT count(*) FROM doubles WHERE suppressed"),
        copies_on_stream=one(_COPIES),
        lost=lost(stream, *effects.values()),
        duplicated=twice + sum(service.duplicated for service in figures),
        out_of_order=disorder + sum(service.out_of_order for service in figures),
        unexpected=unknown + sum(service.unexpected for service in figures),
        missing_on_stream=lost(stream),
        twice_on_stream=twice,
        out_of_order_on_stream=disorder,
        services=figures,
    )


def _service(evidence: sqlite3.Connection, service: Service, lost: int) -> ServiceFigures:
    def row(query: str, **values: object) -> tuple[Any, ...]:
        filled = query.replace("{service}", service.name).replace("{counts}", service.counts)
        return tuple(evidence.execute(filled, {"service": service.name, **values}).fetchone())

    effects, handled = row("SELECT count(*), count(DISTINCT event_id) FROM {service}.effects")
    (unexpected,) = row(
        "SELECT count(*) FROM {service}.effects WHERE event_id NOT IN (SELECT event_id FROM ledger)"
    )
    out_of_order, late_by_redrive = row(_OUT_OF_ORDER)
    (copied,) = row(_COPIES + " AND event_id IN (SELECT event_id FROM {service}.effects)")
    dead_lettered, redriven, left_dead = row(
        "SELECT count(DISTINCT event_id), count(DISTINCT event_id) FILTER (WHERE redriven_at > 0),"
        " count(*) FILTER (WHERE redriven_at IS NULL) FROM letters WHERE service = :service"
    )
    (timed,) = row("SELECT count(*) FROM (" + _LATENCIES + ")")

    def latency(share: float) -> float | None:
        if not timed:
            return None
        rank = min(timed - 1, int(timed * share))
        return max(0.0, float(row(_LATENCIES + " LIMIT 1 OFFSET :rank", rank=rank)[0]))

    return ServiceFigures(
        durable=service.durable,
        effects=effects,
        handled=handled,
        lost=lost,
        duplicated=effects - handled,
        out_of_order=out_of_order,
        late_by_redrive=late_by_redrive,
        unexpected=unexpected,
        projection_off=row(_PROJECTION_OFF)[0],
        duplicates_suppressed=max(0, copied - (effects - handled)),
        dead_lettered=dead_lettered,
        redriven=redriven,
        left_dead=left_dead,
        latency_p50_seconds=latency(0.50),
        latency_p99_seconds=latency(0.99),
    )
