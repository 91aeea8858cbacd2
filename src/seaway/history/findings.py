"""What an audit says: findings, figures, and the moment up to which all is proven. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from seaway.headers import format_time

Kind: TypeAlias = Literal[
    "missing", "twice", "foreign", "no_effect", "effect_and_letter", "letter_without_event"
]
"""What differs. In the order in which they are told."""

SAID: Final[Mapping[Kind, str]] = {
    "missing": "missing on the stream",
    "twice": "twice on the stream",
    "foreign": "on the stream and never committed",
    "no_effect": "neither effect nor letter nor pending",
    "effect_and_letter": "effect and letter",
    "letter_without_event": "letter without event",
}

MOST = 10_000
"""Findings of a kind, a stream and a consumer that are kept; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One event that is not as it should be.

    ``stream_seq``: its place on the stream, or the one that it had; 0 where none is known.
    ``note``: what else was seen. ``letter``: the letter's id.
    """

    kind: Kind
    stream: str
    event_id: str
    stream_seq: int = 0
    consumer: str = ""
    subject: str = ""
    letter: str = ""
    note: str = ""
    at: datetime | None = None
    """When its id says that it was written; else when it was stored, where that is known."""

    @property
    def about(self) -> tuple[Kind, str, str]:
        """What it is counted under."""
        return self.kind, self.stream, self.consumer

    def as_json(self) -> dict[str, Any]:
        """For ``--json``; what is not known is left out."""
        found: dict[str, Any] = {
            "kind": self.kind,
            "stream": self.stream,
            "event_id": self.event_id,
            "stream_seq": self.stream_seq,
            "consumer": self.consumer,
            "subject": self.subject,
            "letter": self.letter,
            "note": self.note,
            "at": format_time(self.at) if self.at else None,
        }
        return {name: value for name, value in found.items() if value}


@dataclass(slots=True)
class ConsumerFigures:
    """A durable: ``events`` that it must have done with, up to which moment that is proven
    (``None``: up to none), event types that are taken as not handled, with how many."""

    durable: str
    events: int = 0
    proven: datetime | None = None
    settled: datetime | None = None
    """The same, whatever was found: nothing before it is on its way."""
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class StreamFigures:
    """A stream: ``since`` which moment its events were compared, how many, and whether with this
    database's outbox (``written``), which knows ``committed``."""

    stream: str
    since: datetime
    events: int = 0
    written: bool = False
    committed: int = 0
    waiting: int = 0
    copies: int = 0
    """Messages that bring an event a second time on purpose, under an id of their own."""
    proven: datetime | None = None
    settled: datetime | None = None
    consumers: list[ConsumerFigures] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """An audit's answer. ``away``: stations that did not answer. ``notes``: what was not compared,
    and why."""

    taken_at: datetime
    streams: list[StreamFigures] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[tuple[Kind, str, str]] = field(default_factory=Counter)
    _findings: dict[tuple[Kind, str, str], list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """One more."""
        self.counts[finding.about] += 1
        kept = self._findings.setdefault(finding.about, [])
        if len(kept) < MOST:
            kept.append(finding)

    def prove(self) -> None:
        """Set what is proven: up to what is settled, and before any event that is lacking."""
        first: dict[tuple[str, str], datetime] = {}
        for one in self.findings:
            if one.kind in ("missing", "no_effect") and one.at is not None:
                about = one.stream, one.consumer
                first[about] = min(one.at, first.get(about, one.at))
        for stream in self.streams:
            named: list[tuple[StreamFigures | ConsumerFigures, str]] = [(stream, "")]
            named += [(one, one.durable) for one in stream.consumers]
            for figures, name in named:
                if (settled := figures.settled) is not None:
                    figures.proven = min(settled, first.get((stream.stream, name), settled))

    @property
    def settled(self) -> datetime:
        """Before that, nothing was on its way anywhere when it was compared."""
        each = [one.settled for one in self.streams]
        each += [one.settled for stream in self.streams for one in stream.consumers]
        return min([self.taken_at, *(one for one in each if one is not None)])

    @property
    def findings(self) -> Sequence[Finding]:
        """Those that are kept, by kind."""
        return list(self._in_order())

    def _in_order(self) -> Iterator[Finding]:
        for kind in SAID:
            for about in sorted(one for one in self._findings if one[0] == kind):
                yield from self._findings[about]

    @property
    def differs(self) -> bool:
        """Whether anything is not as it should be."""
        return self.counts.total() > 0

    @property
    def code(self) -> int:
        """The exit code: 1 where anything differs, 3 where a station is away, 0."""
        return 1 if self.differs else 3 if self.away else 0

    def of(self, kind: Kind, stream: str, consumer: str = "") -> int:
        """How many there are."""
        return self.counts[kind, stream, consumer]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "taken_at": format_time(self.taken_at),
            "differs": self.differs,
            "streams": [_stream_json(self, one) for one in self.streams],
            "findings": [one.as_json() for one in self.findings],
            "away": self.away,
            "notes": self.notes,
        }


def _stream_json(report: Report, one: StreamFigures) -> dict[str, Any]:
    return {
        "stream": one.stream,
        "since": format_time(one.since),
        "events": one.events,
        "written_here": one.written,
        "committed": one.committed,
        "waiting": one.waiting,
        "copies": one.copies,
        "proven_until": format_time(one.proven) if one.proven else None,
        **{kind: report.of(kind, one.stream) for kind in SAID if kind not in OF_CONSUMERS},
        "consumers": [
            {
                "consumer": each.durable,
                "events": each.events,
                "proven_until": format_time(each.proven) if each.proven else None,
                **{kind: report.of(kind, one.stream, each.durable) for kind in OF_CONSUMERS},
                "taken_as_not_handled": each.ignored,
            }
            for each in one.consumers
        ],
    }


OF_CONSUMERS: Final[tuple[Kind, ...]] = ("no_effect", "effect_and_letter", "letter_without_event")
"""Those that are told of a consumer."""


def moment_of(milliseconds: int) -> datetime:
    """A time in milliseconds since 1970; one that no calendar has is the last of ours."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)
