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

from seaway.embedded.nats_server import NatsCluster, NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.errors import BrokerUnavailable, StoreUnavailable
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.proof import ledger
from seaway.proof.faults import Server
from seaway.proof.stage import Stage, configuration, opened

CONTEXT = "drill"
SUBJECT = f"{CONTEXT}.event.case_moved.v1"

_LARGEST_TRANSACTION = 50
_MOMENT_SECONDS = 0.1


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
    nodes: int = 1,
    outbox: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Stage, Mapping[str, Server]]]:
    """A stage on the context of the drills, on servers of its own: ``nats``, and ``postgres``
    where that is the ``database``.

    ``keep``: an empty folder for the children's logs, which otherwise go with the stage.
    ``beside``: other contexts. ``nodes``: more than one are a cluster whose streams are on all, and
    ``nats`` is whichever leads the event stream (``Leader``). ``outbox`` and ``options``, of the
    durables: as in ``seaway.yaml``.
    """
    async with AsyncExitStack() as stack:
        folder = keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="seaway-drill-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        nats: NatsServer | NatsCluster = NatsCluster(nodes) if nodes > 1 else NatsServer()
        await stack.enter_async_context(nats)
        running: dict[str, Server] = {}
        url = f"sqlite:///{folder / 'drill.db'}"
        if database == "postgres":
            postgres = PostgresServer(settings={"max_connections": "250"})
            running["postgres"] = await stack.enter_async_context(postgres)
            url = postgres.url()
        # Delayed negative acks keep their places: room for them and for every process.
        options |= {"max_ack_pending": 1000}
        content = configuration(
            nats.url, url, (CONTEXT, *beside), durables, replicas=nodes, **options
        )
        content = {**content, "outbox": dict(outbox or {})}
        stage = await stack.enter_async_context(
            opened(folder / "seaway.yaml", content, CONTEXT, said)
        )
        running["nats"] = nats if isinstance(nats, NatsServer) else Leader(stage, nats, said)
        yield stage, running


class Leader:
    """Of a cluster, the server that leads the event stream when it is stopped or killed."""

    def __init__(self, stage: Stage, cluster: NatsCluster, said: Callable[[str], None]) -> None:
        self._stage = stage
        self.servers = cluster.servers
        self._said = said
        self._struck = cluster.servers[0]

    async def kill(self) -> None:
        await self._find()
        await self._struck.kill()

    async def stop(self) -> None:
        await self._find()
        await self._struck.stop()

    async def start(self) -> None:
        await self._struck.start()

    async def _find(self) -> None:
        while True:
            with suppress(BrokerUnavailable):
                info = await self._stage.app.broker.admin.stream(self._stage.stream)
                if info is not None and info.leader is not None:
                    break
            await asyncio.sleep(_MOMENT_SECONDS)
        self._said(f"{info.leader} leads")
        self._struck = next(one for one in self.servers if one.name == info.leader)


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
