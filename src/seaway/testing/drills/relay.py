"""The relay drill: several relays of one PostgreSQL outbox, killed, stopped and cut off at random.

    writers ──> outbox ──> relay 1..n  (kill -9, SIGSTOP .. SIGCONT) ──> stream
                              │   nats-server: kill -9, later a graceful restart

Owns: the writers, the faults, and the reconciliation: every committed id on the stream, none of
the rolled back, none twice, every key in the order in which it was written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

from seaway import headers as h
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Broker, Store
from seaway.demo.supervisor import Supervisor
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.stores import open_store
from seaway.testing.drills.signals import hold, send

SUBJECT = "drill.event.case_moved.v1"
STREAM = "DRILL_EVENTS"
_WRITERS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``stopped``: how long a SIGSTOP lasts, from and to, in seconds."""

    events: int = 200_000
    keys: int = 200
    relays: int = 4
    shards: int = 4
    faults_every: tuple[float, float] = (0.4, 1.2)
    stopped: tuple[float, float] = (0.5, 3.0)
    server_restarts: int = 2
    seed: int = 0
    patience: timedelta = timedelta(minutes=10)


@dataclass(slots=True)
class Report:
    """What happened. ``exact``: nothing lost, nothing twice, nothing out of order."""

    committed: int = 0
    rolled_back: int = 0
    on_stream: int = 0
    lost: int = 0
    invented: int = 0
    twice: int = 0
    keys_out_of_order: int = 0
    kills: int = 0
    stops: int = 0
    server_restarts: int = 0
    exits: int = 0
    """Relays that ended without having been told to."""
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the drill was passed."""
        wrong = self.lost + self.invented + self.twice + self.keys_out_of_order + self.exits
        return wrong == 0


@dataclass(slots=True)
class Written:
    """What the writers committed: event ids by key, in order."""

    by_key: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    count: int = 0
    rolled_back: int = 0


class _Undo(Exception):
    pass


async def run(plan: Plan, *, said: Callable[[str], None] = lambda text: None) -> Report:
    """Carry out ``plan`` on servers of its own. ``TimeoutError`` where it does not come to an end
    within ``plan.patience``."""
    began, report = time.monotonic(), Report()
    with tempfile.TemporaryDirectory(prefix="seaway-drill-") as folder:
        async with PostgresServer() as postgres, NatsServer() as nats:
            store = await open_store(postgres.url())
            await store.schema.upgrade()
            await store.reshard(plan.shards)
            broker = await connect(NatsSettings(url=nats.url))
            config = {"name": STREAM, "subjects": ["drill.event.>"], "allow_atomic": True}
            await broker.admin.create_stream(config)
            supervisor = Supervisor(said)
            try:
                async with asyncio.timeout(plan.patience.total_seconds()):
                    for number in range(1, plan.relays + 1):
                        await _start_relay(supervisor, number, nats.url, postgres.url(), folder)
                    written = await _write_under_fire(plan, store, broker, nats, supervisor, report)
                    said("everything is written; waiting for the outbox to be empty")
                    await _until_empty(store)
            finally:
                await supervisor.stop()
            report.exits = sum(child.exits for child in supervisor.children.values())
            await _reconcile(broker, written, report)
            await broker.close()
            await store.close()
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def _start_relay(
    supervisor: Supervisor, number: int, nats: str, database: str, folder: str
) -> None:
    file = Path(folder, "seaway.yaml")
    file.write_text(json.dumps({"nats": {"url": nats}, "database": database}))
    log = Path(folder, f"relay-{number}.log")
    await supervisor.start(f"relay {number}", ["seaway", "--config", str(file), "relay"], log=log)


async def _write_under_fire(
    plan: Plan,
    store: Store,
    broker: Broker,
    nats: NatsServer,
    supervisor: Supervisor,
    report: Report,
) -> Written:
    """All writers, with the faults for as long as they write and the relays have work."""
    written, chance = Written(), random.Random(plan.seed)
    shares = [range(first, plan.keys, _WRITERS) for first in range(_WRITERS)]
    writing = asyncio.gather(
        *(
            _write(store, share, plan.events // _WRITERS, written, random.Random(plan.seed + place))
            for place, share in enumerate(shares, start=1)
        )
    )
    faults = asyncio.create_task(_strike(plan, nats, supervisor, report, chance))
    try:
        await writing
        async with asyncio.timeout(60):
            while report.server_restarts < plan.server_restarts:
                await asyncio.sleep(0.05)
    finally:
        writing.cancel()
        faults.cancel()
        await asyncio.gather(writing, faults, return_exceptions=True)
        for child in supervisor.children.values():
            send(child.pid, signal.SIGCONT)
    return written


async def _write(
    store: Store, keys: Iterable[int], events: int, written: Written, chance: random.Random
) -> None:
    """Transactions of 1 to 100 events on keys of one's own; one in twenty is rolled back."""
    outbox, mine, left = Outbox(), list(keys), events
    while left > 0:
        size = min(left, chance.randint(1, 100))
        chosen = [f"case-{chance.choice(mine)}" for _ in range(size)]
        batch = [RawEvent(SUBJECT, b'{"note":"' + b"x" * 180 + b'"}', key=key) for key in chosen]
        undo = chance.random() < 0.05
        try:
            async with store.transaction() as tx:
                added = outbox.add(tx.handle, *batch)
                ids = added if isinstance(added, list) else await added
                if undo:
                    raise _Undo
        except _Undo:
            written.rolled_back += size
            continue
        for key, event_id in zip(chosen, ids, strict=True):
            written.by_key[key].append(event_id)
        written.count += size
        left -= size


async def _strike(
    plan: Plan, nats: NatsServer, supervisor: Supervisor, report: Report, chance: random.Random
) -> None:
    """A fault every now and then, until cancelled."""
    stopped: set[asyncio.Task[None]] = set()
    victims = list(supervisor.children.values())
    strokes = 0
    while True:
        await asyncio.sleep(chance.uniform(*plan.faults_every))
        strokes += 1
        victim = chance.choice(victims)
        if strokes % 4 == 0 and report.server_restarts < plan.server_restarts:
            await (nats.kill() if report.server_restarts % 2 == 0 else nats.stop())
            await asyncio.sleep(chance.uniform(0.1, 1.0))
            await nats.start()
            report.server_restarts += 1
        elif chance.random() < 0.5:
            send(victim.pid, signal.SIGKILL)
            report.kills += 1
        else:
            report.stops += 1
            stopping = asyncio.create_task(hold(victim.pid, chance.uniform(*plan.stopped)))
            stopped.add(stopping)
            stopping.add_done_callback(stopped.discard)


async def _until_empty(store: Store) -> None:
    while (await store.backlog()).count:
        await asyncio.sleep(0.2)


async def _reconcile(broker: Broker, written: Written, report: Report) -> None:
    """Read the whole stream, id by id."""
    seen: set[str] = set()
    found: defaultdict[str, list[str]] = defaultdict(list)
    async for stored in broker.admin.read(STREAM, headers_only=True):
        event_id = stored.message.headers[h.MSG_ID]
        report.on_stream += 1
        report.twice += event_id in seen
        if event_id not in seen:
            found[stored.message.key].append(event_id)
        seen.add(event_id)
    committed = {event_id for ids in written.by_key.values() for event_id in ids}
    report.committed, report.rolled_back = written.count, written.rolled_back
    report.lost, report.invented = len(committed - seen), len(seen - committed)
    report.keys_out_of_order = sum(
        [event_id for event_id in ids if event_id in seen] != found[key]
        for key, ids in written.by_key.items()
    )


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("events", "keys", "relays", "shards", "server-restarts", "seed"):
        default = getattr(plan, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    given = parser.parse_args()
    report = asyncio.run(
        run(Plan(**vars(given)), said=lambda text: print(text, file=sys.stderr, flush=True))
    )
    print(json.dumps({**asdict(report), "exact": report.exact}, indent=2))
    return 0 if report.exact else 1


if __name__ == "__main__":
    sys.exit(main())
