"""What the templates show: samples and letters turned into rows, bars and lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from seaway.config import AlertSettings
from seaway.contracts import ConsumerInfo
from seaway.dead_letters.letter import Letter
from seaway.monitor import Report, Sample, State, rates
from seaway.monitor.wording import human_bytes, human_duration

SPARK_WIDTH, SPARK_HEIGHT = 120, 28
BAR_WIDTH = 100
RATE_SECONDS = 60
PAYLOAD_SHOWN = 64 * 1024
HEADLINES = {
    State.OK: "All is well",
    State.WARNING: "Needs a look",
    State.CRITICAL: "Something is broken",
    State.UNKNOWN: "Cannot see everything",
}


@dataclass(frozen=True, slots=True)
class ConsumerRow:
    """A durable with its bar (share of the alert threshold) and sparkline of what is pending."""

    view: ConsumerInfo
    state: State
    bar: int
    threshold: int
    spark: str
    redeliveries: int
    redeliveries_per_minute: float | None


def recent_rates(history: Sequence[Sample]) -> dict[tuple[str, str], float] | None:
    """Redeliveries a minute over the last minute, or since the sample before where that is older.

    ``None`` before there are two samples.
    """
    usable = [sample for sample in history if sample.snapshot.server_error is None]
    if len(usable) < 2:
        return None
    last = usable[-1]
    recent = [s for s in usable[:-1] if last.read_at - s.read_at <= RATE_SECONDS]
    return rates((recent or usable[-2:])[0], last)


def consumer_rows(
    sample: Sample, history: Sequence[Sample], report: Report, alerts: AlertSettings
) -> list[ConsumerRow]:
    """One row a durable, by stream and name."""
    found = recent_rates(history) or {}
    limit = max(1, alerts.stream_messages_pending)
    return [
        ConsumerRow(
            view=view,
            state=_worst(report, f"{view.stream}/{view.durable}"),
            bar=round(BAR_WIDTH * min(1.0, view.num_pending / limit)),
            threshold=alerts.stream_messages_pending,
            spark=sparkline(_pending(history, view.key)),
            redeliveries=sample.redeliveries.get(view.key, 0),
            redeliveries_per_minute=found.get(view.key),
        )
        for view in sample.snapshot.consumers
    ]


def sparkline(values: Sequence[float]) -> str:
    """The points of an SVG polyline, oldest left, its highest value at the top."""
    if len(values) < 2:
        return ""
    top = max(*values, 1)
    step = SPARK_WIDTH / (len(values) - 1)
    room = SPARK_HEIGHT - 4
    return " ".join(
        f"{place * step:.1f},{2 + room - room * value / top:.1f}"
        for place, value in enumerate(values)
    )


def payload_text(letter: Letter) -> tuple[str, str]:
    """``(text, note)``: JSON indented, other text as it is, the rest with its unreadable bytes."""
    raw = letter.payload
    if letter.by_reference:
        return "", f"left in {letter.stream}:{letter.stream_seq}"
    if not raw:
        return "", "empty"
    shown = raw[:PAYLOAD_SHOWN]
    note = human_bytes(len(raw))
    if len(raw) > len(shown):
        return shown.decode("utf-8", "replace"), f"{note}, the first {human_bytes(len(shown))}"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace"), f"{note}, not UTF-8"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False), f"{note}, JSON"
    except (ValueError, RecursionError):
        return text, f"{note}, not JSON"


def headline(sample: Sample, report: Report) -> str:
    """The state in a few words."""
    return "NATS is away" if sample.away_since else HEADLINES[report.state]


def away_for(sample: Sample) -> str:
    """How long the server has been away, in words; empty while it is there."""
    if sample.away_since is None:
        return ""
    return human_duration(sample.snapshot.taken_at - sample.away_since)


def _pending(history: Sequence[Sample], key: tuple[str, str]) -> list[float]:
    return [
        view.num_pending
        for sample in history
        for view in sample.snapshot.consumers
        if view.key == key
    ]


def _worst(report: Report, subject: str) -> State:
    return Report(tuple(f for f in report.findings if f.subject == subject)).state
