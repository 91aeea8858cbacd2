"""The dashboard's routes, all of them read only (GET and HEAD), and what its templates show."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from seaway import __version__
from seaway.config import AlertSettings
from seaway.contracts import ConsumerInfo
from seaway.dead_letters.letter import Letter
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.history.gauges import families as audit_families
from seaway.monitor import (
    CONTENT_TYPE,
    Report,
    Sample,
    Snapshot,
    State,
    alert_rules,
    exposition,
    judged,
    recent_rates,
)
from seaway.web.security import KnownHosts, SecurityHeaders
from seaway.web.source import Source
from seaway.words import human_bytes, human_duration

LETTERS_SHOWN = 50
SPARK_WIDTH, SPARK_HEIGHT = 120, 28
BAR_WIDTH = 100
PAYLOAD_SHOWN = 64 * 1024
HEADLINES = {
    State.OK: "All is well",
    State.WARNING: "Needs a look",
    State.CRITICAL: "Something is broken",
    State.UNKNOWN: "Cannot see everything",
}
_HERE = Path(__file__).parent


def build(source: Source, alerts: AlertSettings, allowed_hosts: Sequence[str]) -> Starlette:
    """See ``seaway.web.create_app``."""
    board = _Board(source, alerts)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with source:
            yield

    return Starlette(
        routes=[
            Route("/", board.index),
            Route("/dead-letters/{letter_id}", board.letter),
            Route("/healthz", board.healthz),
            Route("/readyz", board.readyz),
            Route("/metrics", board.metrics),
            Route("/alerts.rules.yml", board.rules),
            Route("/api/snapshot", board.snapshot),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(KnownHosts, hosts=allowed_hosts),
        ],
        exception_handlers={HTTPException: board.http_error},
        lifespan=lifespan,
    )


class _Board:
    def __init__(self, source: Source, alerts: AlertSettings) -> None:
        self._source = source
        self._alerts = alerts
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"size": human_bytes, "span": human_duration, "time": _time}
        self._templates.globals |= {"version": __version__, "State": State}

    async def index(self, _: Request) -> Response:
        sample, report = await self._look()
        letters, letters_error = await self._letters(sample.snapshot)
        history = self._source.history
        return self._page(
            "index.html",
            sample=sample,
            snapshot=sample.snapshot,
            report=report,
            headline=headline(sample, report),
            away_for=away_for(sample),
            rows=consumer_rows(sample, history, report, self._alerts),
            letters=letters,
            letters_error=letters_error,
            letters_total=sum(sample.snapshot.dead_letters.values()),
            spark_box=f"0 0 {SPARK_WIDTH} {SPARK_HEIGHT}",
        )

    async def letter(self, request: Request) -> Response:
        try:
            letter = await self._source.letter(request.path_params["letter_id"])
        except (NotFound, ConfigError) as error:
            return self._page("error.html", 404, title="Not found", message=str(error))
        except SeawayError as error:
            return self._page("error.html", 503, title="Not reachable", message=str(error))
        text, note = payload_text(letter)
        headers = sorted(letter.stored.message.headers.items())
        return self._page("letter.html", letter=letter, text=text, note=note, headers=headers)

    async def healthz(self, _: Request) -> Response:
        """The process is alive; nothing else is asked."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """Server and database answer, and everything of the configuration is there."""
        reasons = not_ready((await self._source.sample()).snapshot)
        return JSONResponse(
            {"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200
        )

    async def metrics(self, _: Request) -> Response:
        sample = await self._source.sample()
        return Response(
            exposition(sample, self._source.activity, more=audit_families(self._source.audited)),
            headers={"Content-Type": CONTENT_TYPE},
        )

    async def rules(self, _: Request) -> Response:
        return PlainTextResponse(alert_rules(self._alerts), media_type="text/yaml")

    async def snapshot(self, _: Request) -> Response:
        sample, report = await self._look()
        return JSONResponse(as_mapping(sample, report))

    async def http_error(self, _: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        title = "Not found" if status == 404 else "Not possible"
        return self._page("error.html", status, title=title, message="There is no such page.")

    async def _look(self) -> tuple[Sample, Report]:
        sample = await self._source.sample()
        return sample, judged(sample, self._source.history, self._alerts)

    async def _letters(self, snapshot: Snapshot) -> tuple[Sequence[Letter], str]:
        if not any(snapshot.dead_letters.values()):
            return (), ""
        try:
            return await self._source.letters(LETTERS_SHOWN), ""
        except SeawayError as error:
            return (), str(error)

    def _page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._templates.get_template(name).render(values), status)


def not_ready(snapshot: Snapshot) -> list[str]:
    """Why the service cannot work; empty where it can."""
    reasons = [f"NATS: {snapshot.server_error}"] if snapshot.server_error else []
    if snapshot.outbox_error:
        reasons.append(f"database: {snapshot.outbox_error}")
    reasons += [f"stream {name} does not exist" for name in snapshot.missing_streams]
    reasons += [
        f"consumer {durable} of {stream} does not exist"
        for stream, durable in snapshot.missing_consumers
    ]
    return reasons


def as_mapping(sample: Sample, report: Report) -> dict[str, Any]:
    """A sample for JSON: times as RFC 3339, states as words, pairs as objects."""
    body: dict[str, Any] = _plain(asdict(sample.snapshot))
    for shown, stream in zip(body["streams"], sample.snapshot.streams, strict=True):
        shown["full_subjects"] = stream.full_subjects
        del shown["subject_messages"], shown["document"]
    for shown in body["consumers"]:
        del shown["document"]
    body["missing_consumers"] = [
        {"stream": stream, "consumer": durable}
        for stream, durable in sample.snapshot.missing_consumers
    ]
    body["redeliveries"] = [
        {"stream": stream, "consumer": durable, "count": count}
        for (stream, durable), count in sorted(sample.redeliveries.items())
    ]
    body["away_since"] = _plain(sample.away_since)
    return body | report.as_json()


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC")


# ------------------------------------------------------------------------------- templates


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
