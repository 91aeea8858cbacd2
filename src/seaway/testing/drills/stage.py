"""Where the drills play: servers of their own, and writers who fill the outbox of a stage.

Owns: the servers and the folder of a drill, and the honest load. Breaks nothing by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.embedded.process import ServerProcess
from seaway.errors import StoreUnavailable
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.proof import ledger
from seaway.proof.stage import Stage, configuration, opened

CONTEXT = "drill"
SUBJECT = f"{CONTEXT}.event.case_moved.v1"

_LARGEST_TRANSACTION = 50


class _Undo(Exception):
    pass


@asynccontextmanager
async def servers(
    keep: Path | None,
    said: Callable[[str], None],
    *,
    durables: Sequence[Durable] = (),
    beside: Sequence[str] = (),
    database: str = "postgres",
    **options: Any,
) -> AsyncIterator[tuple[Stage, Mapping[str, ServerProcess]]]:
    """A stage on the context of the drills, on servers of its own: ``nats``, and ``postgres``
    where that is the ``database``.

    ``keep``: an empty folder for the children's logs, which otherwise go with the stage.
    ``beside``: other contexts. ``options``: of the durables, as in ``seaway.yaml``.
    """
    async with AsyncExitStack() as stack:
        folder = keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="seaway-drill-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        nats = await stack.enter_async_context(NatsServer())
        running: dict[str, ServerProcess] = {"nats": nats}
        url = f"sqlite:///{folder / 'drill.db'}"
        if database == "postgres":
            postgres = PostgresServer(settings={"max_connections": "250"})
            running["postgres"] = await stack.enter_async_context(postgres)
            url = postgres.url()
        # Delayed negative acks keep their places: room for them and for every process.
        room = {"max_ack_pending": 1000}
        content = configuration(nats.url, url, (CONTEXT, *beside), durables, **room, **options)
        config = folder / "seaway.yaml"
        yield await stack.enter_async_context(opened(config, content, CONTEXT, said)), running


async def write(
    stage: Stage,
    numbers: Iterator[int],
    *,
    keys: int,
    seed: int,
    writers: int = 4,
    undo: float = 0.0,
    then: Callable[[Mapping[int, str]], Awaitable[None]] | None = None,
) -> int:
    """One event for each of ``numbers``, in transactions of some; an outage loses its own.

    Several write at a time, each on keys of its own: the ledger's order is each key's. A share of
    ``undo`` of the transactions is rolled back, and made anew: how many events that undid.
    ``then`` gets what was committed, event ids by number.
    """
    writers = min(writers, keys)
    undone = await asyncio.gather(
        *(
            _write(stage, numbers, range(first, keys, writers), seed + first, undo, then)
            for first in range(writers)
        )
    )
    return sum(undone)


async def _write(
    stage: Stage,
    numbers: Iterator[int],
    keys: range,
    seed: int,
    undo: float,
    then: Callable[[Mapping[int, str]], Awaitable[None]] | None,
) -> int:
    chance, undone = random.Random(seed), 0
    while chosen := list(islice(numbers, chance.randint(1, _LARGEST_TRANSACTION))):
        events = [_event(number, f"case-{chance.choice(keys)}") for number in chosen]
        try:
            if chance.random() < undo:
                undone += len(chosen)
                with suppress(_Undo):
                    await _commit(stage, events, chosen, keep=False)
            ids = await _commit(stage, events, chosen, keep=True)
        except StoreUnavailable:
            await stage.rows("SELECT 1")
            continue
        if then is not None:
            await then(dict(zip(chosen, ids, strict=True)))
    return undone


def _event(number: int, key: str) -> RawEvent:
    return RawEvent(SUBJECT, json.dumps({"number": number, "note": "x" * 180}).encode(), key=key)


async def _commit(
    stage: Stage, events: Sequence[RawEvent], numbers: Sequence[int], *, keep: bool
) -> Sequence[str]:
    async with stage.store.transaction() as tx:
        ids = await ledger.add(tx.handle, stage.app.outbox, events, numbers)
        if not keep:
            raise _Undo
    return ids
