"""What is given up while it is being opened or closed leaves nothing open: no file, no socket, no
thread. Cancelled in every place where it waits, at once and when what it waited for has come."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from seaway.brokers import jetstream
from seaway.config import NatsSettings
from seaway.databases.tasks import opened_in_thread
from seaway.drivers import aiosqlite
from seaway.drivers.functions import Connections
from seaway.embedded.nats_server import NatsServer
from seaway.stores import open_store
from seaway.stores.sqlite import SqliteStore


class Closes(Protocol):
    """What each of them opens."""

    async def close(self) -> None: ...


Open = Callable[[], Coroutine[Any, Any, Closes]]


@pytest.fixture(params=["SQLite's store", "aiosqlite", "PostgreSQL's store", "NATS"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens something that can be closed."""
    path = tmp_path / "app.db"
    if request.param == "SQLite's store":
        return lambda: SqliteStore.open(path)
    if request.param == "aiosqlite":
        path.touch()
        return lambda: aiosqlite.connect(path)
    if request.param == "PostgreSQL's store":
        url = request.getfixturevalue("postgres_url")
        return lambda: open_store(url)
    server: NatsServer = request.getfixturevalue("nats_server")
    return lambda: jetstream.connect(NatsSettings(url=server.url))


@types.coroutine
def cancelled(
    work: Coroutine[Any, Any, object], place: int, *, late: bool
) -> Generator[Any, Any, bool]:
    """Run ``work``, and cancel it where it waits for the ``place``-th time; ``late``: when what it
    waited for has come. Whether it came to that place. What it gives all the same is closed."""
    task, step, here = asyncio.current_task(), partial(work.send, None), 0
    assert task is not None
    try:
        while True:
            waited = step()
            here += 1
            if here == place and not late:
                task.cancel()  # So it is the future that hears of it first, as it should.
            try:
                yield waited
                step = partial(work.send, None)
            except BaseException as error:
                step = partial(work.throw, error)
            if here == place and late:
                step = partial(work.throw, asyncio.CancelledError())
    except asyncio.CancelledError:
        pass
    except StopIteration as end:
        if end.value is not None:
            yield from end.value.close().__await__()
    task.uncancel()
    return here >= place


def is_open() -> Counter[str]:
    """Files and sockets of this process, and the threads that are not the loop's own."""
    found = Counter[str]()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}")] += 1
        except FileNotFoundError:
            pass  # That of the listing itself.
    found.update(one.name for one in threading.enumerate() if not one.name.startswith("asyncio_"))
    return found


async def nothing_more_than(before: Counter[str]) -> None:
    """A socket's end takes a turn of the loop, and a thread's its time."""
    async with asyncio.timeout(30):
        while is_open() - before:
            await asyncio.sleep(0.01)


@pytest.fixture
async def before(opening: Open) -> AsyncIterator[Counter[str]]:
    """What is open at rest; whatever the loop reports meanwhile fails the test."""
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    await (await opening()).close()
    await asyncio.sleep(0)
    yield is_open()
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


@pytest.mark.server
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_what_is_given_up_while_it_is_opened_leaves_nothing_open(
    opening: Open, before: Counter[str], late: bool
) -> None:
    place = 1
    while await cancelled(opening(), place, late=late):
        await nothing_more_than(before)
        place += 1
    assert place > 1
    await nothing_more_than(before)


@pytest.mark.server
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
async def test_what_is_closed_is_closed_although_it_is_given_up(
    opening: Open, before: Counter[str], late: bool
) -> None:
    place = 1
    while await cancelled((await opening()).close(), place, late=late):
        await nothing_more_than(before)
        place += 1
    assert place > 1
    await nothing_more_than(before)


async def test_what_a_thread_opens_for_nobody_is_closed_there(tmp_path: Path) -> None:
    """Also where the loop has ended by then: the thread waits for no loop."""
    entered, go_on = threading.Event(), threading.Event()
    opened: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        entered.set()
        assert go_on.wait(30)
        opened.append(sqlite3.connect(tmp_path / "app.db", check_same_thread=False))
        return opened[0]

    task = asyncio.create_task(opened_in_thread(connect))
    await asyncio.to_thread(entered.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    async with asyncio.timeout(30):
        while True:
            try:
                opened[0].execute("SELECT 1")
            except IndexError:
                pass  # Not yet opened.
            except sqlite3.ProgrammingError:
                break  # It is closed.
            await asyncio.sleep(0.01)


async def test_connections_of_a_function_are_all_closed_although_the_first_was_given_up() -> None:
    class Slow:
        closed = False

        async def close(self) -> None:
            await asyncio.sleep(0)
            self.closed = True

    made: list[Slow] = []

    async def connect() -> Slow:
        made.append(Slow())
        return made[-1]

    connections: Connections[Slow] = Connections(connect)
    for each in [await connections.take() for _ in range(3)]:
        await connections.give_back(each)
    assert await cancelled(connections.close(), 1, late=False)
    assert [each.closed for each in made] == [True, True, True]
