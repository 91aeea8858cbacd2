"""Clients that never end a request, or never take the answer: a server that lets them go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from seaway.web import serving

ANSWER_BYTES = 64 * 1024 * 1024


async def large_answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(ANSWER_BYTES)})


async def no_answer(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def state(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServerState]:
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.3)
    opened = ServerState()
    yield opened
    for task in opened.tasks:
        task.cancel()
    await asyncio.gather(*opened.tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("app", "sent"),
    [
        pytest.param(no_answer, b"", id="says nothing"),
        pytest.param(no_answer, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", id="half a request"),
        pytest.param(no_answer, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="no answer for it"),
        pytest.param(large_answer, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="takes no answer"),
        pytest.param(
            large_answer,
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
            id="half a body",
        ),
    ],
)
async def test_it_is_cut(state: ServerState, app: Any, sent: bytes) -> None:
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    server = await asyncio.get_running_loop().create_server(
        lambda: serving.BoundedProtocol(config, state, {}), "127.0.0.1", 0
    )
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        _, writer = await asyncio.open_connection(host, port)
        writer.write(sent)
        async with asyncio.timeout(60):
            while not state.connections:
                await asyncio.sleep(0.01)
            while state.connections:
                await asyncio.sleep(0.01)
        writer.close()
