"""A connection to PostgreSQL that is given up while it is being made, as a stop may do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from seaway.stores.postgres import PostgresStore


async def test_a_connection_given_up_as_soon_as_it_is_there_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the socket's connection and the driver's first look at it: one turn of the loop."""
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    connect, given_up = loop.create_connection, 0

    async def create_connection(factory: Callable[[], Any], *where: Any, **options: Any) -> Any:
        opening = asyncio.current_task()
        assert opening is not None

        def made() -> Any:
            nonlocal given_up
            given_up += opening.cancel()
            return factory()

        return await connect(made, *where, **options)

    monkeypatch.setattr(loop, "create_connection", create_connection)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(PostgresStore.open(f"postgresql://ann@127.0.0.1:{port}/sea"))
    server.close()
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert given_up
    assert told == []
