"""The routes. Every one is read only (GET and HEAD)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
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

from seaway.config import AlertSettings
from seaway.dead_letters.letter import Letter
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.monitor import Report, Sample, Snapshot, State, alert_rules, evaluate, exposition
from seaway.monitor.metrics import CONTENT_TYPE
from seaway.monitor.wording import human_bytes, human_duration
from seaway.web import pages
from seaway.web.security import KnownHosts, SecurityHeaders
from seaway.web.source import Source

LETTERS_SHOWN = 50
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
        self._templates.globals |= {"version": version("seaway"), "State": State}

    async def index(self, _: Request) -> Response:
        sample, report = await self._look()
        letters, letters_error = await self._letters(sample.snapshot)
        history = self._source.history
        return self._page(
            "index.html",
            sample=sample,
            snapshot=sample.snapshot,
            report=report,
            headline=pages.headline(sample, report),
            away_for=pages.away_for(sample),
            rows=pages.consumer_rows(sample, history, report, self._alerts),
            letters=letters,
            letters_error=letters_error,
            letters_total=sum(sample.snapshot.dead_letters.values()),
            spark_box=f"0 0 {pages.SPARK_WIDTH} {pages.SPARK_HEIGHT}",
        )

    async def letter(self, request: Request) -> Response:
        try:
            letter = await self._source.letter(request.path_params["letter_id"])
        except (NotFound, ConfigError) as error:
            return self._page("error.html", 404, title="Not found", message=str(error))
        except SeawayError as error:
            return self._page("error.html", 503, title="Not reachable", message=str(error))
        text, note = pages.payload_text(letter)
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
            exposition(sample, self._source.activity), headers={"Content-Type": CONTENT_TYPE}
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
        found = pages.recent_rates(self._source.history)
        return sample, evaluate(sample.snapshot, self._alerts, found, sample.unmoved)

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
    body["state"] = report.state.label
    body["findings"] = [asdict(f) | {"state": f.state.label} for f in report.findings]
    return body


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
