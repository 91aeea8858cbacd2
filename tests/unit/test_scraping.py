"""The figures of a process at work, and who may ask for them how."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from seaway import Seaway
from seaway.config import settings_from_mapping
from seaway.errors import ConfigError
from seaway.monitor.scraping import MetricsApp, address, serving
from seaway.telemetry import Delivered, Relayed, Telemetry

DELIVERED = Delivered(
    "SEA_EVENTS", "a__from_sea", "e1", "sea.event.a.v1", "handled", 1, timedelta(seconds=2)
)
RELAYED = Relayed("SEA_EVENTS", 3, 1, 0, timedelta(seconds=1))


def application() -> Seaway:
    return Seaway(settings_from_mapping({}, environ={}))


async def ask(port: int, request: bytes, *, eof: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


def figures(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_scrape_finds_what_this_process_has_done() -> None:
    telemetry = Telemetry()
    async with serving(MetricsApp(telemetry), 0) as port:
        telemetry.emit(DELIVERED)
        telemetry.emit(RELAYED)
        answer = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"text/plain; version=0.0.4" in head
        found = figures(body.decode())
        assert found["seaway_deliveries_total"] == 1
        assert found["seaway_handling_seconds_total"] == 2
        assert found["seaway_relay_published_total"] == 3
        assert b"e1" not in body
        # Nobody watches the server or the database here.
        assert not any(name.startswith("seaway_server") for name in found)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0", b"200"),
        (b"GET /other HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"\xff\xfe", b"405"),
    ],
)
async def test_what_else_is_asked(request_line: bytes, status: bytes) -> None:
    async with serving(MetricsApp(Telemetry()), "127.0.0.1:0") as port:
        answer = await ask(port, request_line + b"\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == status
        assert bool(body) is not request_line.startswith(b"HEAD")


async def test_clients_that_mean_no_well_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seaway.monitor.scraping._PATIENCE_SECONDS", 0.2)
    async with serving(MetricsApp(Telemetry()), 0) as port:
        assert await ask(port, b"", eof=True) == b""
        assert await ask(port, b"GET / HTTP/1.1\r\n" + b"x" * 100_000) == b""
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        for reader, writer in silent:
            async with asyncio.timeout(60):
                assert await reader.read() == b""
            writer.close()
        assert b"200 OK" in await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_the_end_waits_for_no_client() -> None:
    async with asyncio.timeout(3):
        async with serving(MetricsApp(Telemetry()), 0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET ")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (9400, ("127.0.0.1", 9400)),
        ("9400", ("127.0.0.1", 9400)),
        ("0.0.0.0:9400", ("0.0.0.0", 9400)),
        ("[::1]:9400", ("::1", 9400)),
    ],
)
def test_where_it_listens(given: Any, found: tuple[str, int]) -> None:
    assert address(given) == found


@pytest.mark.parametrize("given", ["", "x", "host:", "70000", "-1", "host:http"])
def test_no_port_is_one_clear_line(given: str) -> None:
    with pytest.raises(ConfigError, match="is no port"):
        address(given)


async def test_a_taken_port_is_one_clear_line() -> None:
    async with serving(MetricsApp(Telemetry()), 0) as port:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(MetricsApp(Telemetry()), port):
                raise AssertionError


def test_a_web_framework_serves_them_beside_its_own_pages() -> None:
    app = application()
    fast = FastAPI()
    fast.mount("/metrics", app.metrics_app())
    webs = (
        fast,
        Starlette(routes=[Route("/metrics", app.metrics_app())]),
        Starlette(routes=[Mount("/metrics", app.metrics_app())]),
    )
    app.telemetry.emit(DELIVERED)
    for web in webs:
        client = TestClient(web)
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert figures(answer.text)["seaway_deliveries_total"] == 1
        assert client.head("/metrics").text == ""
        assert client.post("/metrics").status_code == 405
