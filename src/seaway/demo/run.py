"""The run: from an empty folder (or one that was left in the middle) to the verdict.

Owns: the stages and their order. Guarantees: every stage can be repeated, so a run that was killed
anywhere goes on from its folder; whatever happens, no process that it started is left.

    prepare -> write, relay, consume (faults meanwhile) -> dead letters -> fix -> redrive
            -> reconcile
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from seaway import topology
from seaway.app import Seaway
from seaway.config import load_settings
from seaway.contracts import Store
from seaway.demo import chaos, services
from seaway.demo.doubles import Doubles
from seaway.demo.folder import SERVICE, Folder, Plan
from seaway.demo.letters import Letters
from seaway.demo.log import XES, Columns, survey
from seaway.demo.reconcile import STREAM_TABLES, Reconciliation, reconcile
from seaway.demo.scenario import CONTEXT, Change, case_changes, log_changes, transactions
from seaway.demo.services import SERVICES
from seaway.demo.supervisor import Supervisor
from seaway.demo.view import Progress, View
from seaway.demo.worker import RELAY
from seaway.demo.writer import Writer, in_thread, prepare
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ConfigError, TransientError
from seaway.headers import MSG_ID
from seaway.naming import dlq_stream, events_stream, redrive_stream
from seaway.stores import open_store

STREAM = events_stream(CONTEXT)
ROWS_IN_A_TRANSACTION = 200

_POLL_SECONDS = 0.1
_AHEAD = 2000
"""How many events the service writes ahead of the slowest consumer: it is busy, not a flood."""
_STALLED = timedelta(seconds=90)
_CHAOS_SECONDS = 4.0
_REDRIVES = 3
_SERVER_END = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``seaway demo`` was asked for. ``None``: as the folder says, else the default."""

    log: Path | None = None
    columns: Columns = XES
    cases: int | None = None
    seed: int | None = None
    chaos: bool = False
    outage: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict, and what the run went through on the way."""

    reconciliation: Reconciliation
    faults: dict[str, int]
    took_seconds: float

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        more = {"faults": self.faults, "took_seconds": round(self.took_seconds, 3)}
        return self.reconciliation.as_json() | more


def decide_plan(options: Options, saved: Plan | None) -> Plan:
    """What to do, from the options and from what a folder already holds.

    Reads a log to its end, and refuses it by the line (``ConfigError``).
    """
    if options.log is not None and options.cases is not None:
        raise ConfigError("a log brings its own cases", hint="give either --log or --cases")
    seed = options.seed if options.seed is not None else saved.seed if saved else 1
    if options.log is None and options.columns != XES:
        raise ConfigError("--case, --activity and --time name the columns of a --log")
    log, columns = options.log.resolve() if options.log is not None else None, options.columns
    if log is None and options.cases is None and saved is not None and saved.log:
        log, columns = Path(saved.log), saved.columns
    if log is not None:
        found = survey(log, columns)
        # A small log in small transactions, so that it too has a middle.
        group = max(1, min(ROWS_IN_A_TRANSACTION, found.rows // 40))
        return Plan(str(log), found.cases, found.rows, seed, group, columns)
    cases = options.cases if options.cases is not None else saved.cases if saved else 1000
    events = sum(len(change.events) for change in case_changes(cases, seed))
    return Plan(None, cases, events, seed, 1)


def planned(plan: Plan) -> Iterator[tuple[Change, ...]]:
    """The transactions of ``plan``, always the same ones in the same order."""
    if plan.log is None:
        return transactions(case_changes(plan.cases, plan.seed), plan.group)
    log = Path(plan.log)
    return transactions(
        log_changes(log, survey(log, plan.columns).event_names, plan.columns), plan.group
    )


@dataclass(slots=True)
class Run:
    """One run in a claimed folder. ``go`` is its whole life."""

    folder: Folder
    plan: Plan
    options: Options
    progress: Progress
    view: View
    outages: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _kills: dict[str, int] = field(default_factory=dict)

    async def go(self) -> Outcome:
        """From preparation to verdict. Cancelled, it stops what it started and keeps the folder."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(embedded_server(self.folder))
            self.folder.configure(server.url, SERVICES)
            await self._prepare_databases()
            app = await stack.enter_async_context(
                Seaway(load_settings(self.folder.config(SERVICE), environ={}))
            )
            await self._prepare_topology(app)
            store = await app.open_store()
            supervisor = Supervisor(self.view.say)
            stack.push_async_callback(supervisor.stop)
            for name in (RELAY, *(service.name for service in SERVICES)):
                arguments = ("seaway.demo.worker", name, "--dir", str(self.folder.path))
                await supervisor.start(name, arguments, log=self.folder.log(name))
            async with self._observed(app, store, supervisor):
                await self._work(app, supervisor, server)
                await self._mend(app, supervisor)
                self._enter("reconcile")
                await supervisor.stop()
            found = await self._judge(app)
        return Outcome(found, self._faults(supervisor), time.monotonic() - began)

    # ------------------------------------------------------------------ stages

    async def _prepare_databases(self) -> None:
        for name in (SERVICE, *(service.name for service in SERVICES)):
            store = await open_store(f"sqlite:///{self.folder.database(name)}")
            try:
                await store.schema.upgrade()
            finally:
                await store.close()
        prepare(self.folder.database(SERVICE))
        for service in SERVICES:
            services.prepare(self.folder.database(service.name))

    async def _prepare_topology(self, app: Seaway) -> None:
        desired = topology.desired(app.settings)
        found = await topology.actual(app.broker.admin, desired)
        await topology.apply(topology.plan(desired, found), app.broker.admin)

    async def _work(self, app: Seaway, supervisor: Supervisor, server: NatsServer) -> None:
        """Write, with everything that can go wrong meanwhile, until all is quiet."""
        self._enter("write, relay, consume")
        writer = self._writer(app)
        doubles = Doubles(app.broker, STREAM, self.folder.database(SERVICE), self.plan.seed)
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(writer.run(planned(self.plan)))
                doubling = tasks.create_task(
                    doubles.run(lambda: self.progress.relayed >= self.plan.events)
                )
                striking = tasks.create_task(self._chaos(supervisor, server))
                while not (writing.done() and doubling.done()):
                    self.progress.written = writer.committed
                    self._check(supervisor)
                    await asyncio.sleep(_POLL_SECONDS)
                self.progress.written = writer.committed
                await self._quiet(app, supervisor)
                striking.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _writer(self, app: Seaway) -> Writer:
        groups = -(-self.plan.events // self.plan.group)
        pace = timedelta(seconds=_CHAOS_SECONDS / max(groups, 1) if self.options.chaos else 0)
        writer = Writer(self.folder.database(SERVICE), app.outbox, pace)

        def room() -> bool:
            handled = min(self.progress.handled.values(), default=0)
            # What lies in the dead letter queues will not be handled before the end.
            return writer.committed - handled - self.progress.dead < _AHEAD

        writer.room = room
        return writer

    async def _chaos(self, supervisor: Supervisor, server: NatsServer) -> None:
        if not self.options.chaos:
            return

        async def outage() -> None:
            seconds = self.options.outage.total_seconds()
            self.view.say(f"nats-server stopped for {seconds:g} s")
            await server.stop()
            self.outages += 1
            await asyncio.sleep(seconds)
            await server.start()
            remember_server(self.folder, server)
            self.view.say(f"nats-server started again as pid {server.pid}")

        await chaos.strike(
            tuple(chaos.plan(RELAY, [service.name for service in SERVICES])),
            share_done=self._share_done,
            changed=self._changed,
            kill=supervisor.kill,
            outage=outage,
        )

    def _share_done(self) -> dict[str, float]:
        total = max(self.plan.events, 1)
        done = {RELAY: self.progress.relayed / total}
        for service in SERVICES:
            done[service.name] = self.progress.handled.get(service.name, 0) / total
        return done | {"nats-server": min(done.values())}

    async def _mend(self, app: Seaway, supervisor: Supervisor) -> None:
        """Mend the handler, then redrive the letters to those that could not handle them."""
        letters = Letters(app, self.folder.database(SERVICE))
        self._enter("dead letters")
        await letters.record()
        self._enter("fix")
        (self.folder.path / services.FIXED).touch()
        self._enter("redrive")
        for _ in range(_REDRIVES):
            if await letters.redrive() == 0:
                return
            await self._quiet(app, supervisor)
            await letters.record()

    async def _judge(self, app: Seaway) -> Reconciliation:
        evidence = sqlite3.connect(self.folder.path / "stream.db", check_same_thread=False)
        with closing(evidence):
            evidence.executescript(STREAM_TABLES)
            rows: list[tuple[int, str, str]] = []
            async for stored in app.broker.admin.read(STREAM, headers_only=True):
                message_id = stored.message.headers.get(MSG_ID, "")
                rows.append((stored.stream_seq, message_id, stored.event_id))
                if len(rows) == 1000:
                    evidence.executemany("INSERT INTO streamed VALUES (?, ?, ?)", rows)
                    rows.clear()
            evidence.executemany("INSERT INTO streamed VALUES (?, ?, ?)", rows)
            evidence.commit()
            for name in (SERVICE, *(service.name for service in SERVICES)):
                path = str(self.folder.database(name))
                evidence.execute("ATTACH ? AS " + name, (path,))
            return await in_thread(lambda: reconcile(evidence, SERVICES))

    # ------------------------------------------------------------------ watching

    def _enter(self, stage: str) -> None:
        self.progress.stage = stage
        self.view.say(stage)

    def _check(self, supervisor: Supervisor) -> None:
        failure = supervisor.failed()
        if failure is not None:
            raise failure

    async def _quiet(self, app: Seaway, supervisor: Supervisor) -> None:
        """Return when nothing is left to be done, or when nothing has moved for a long time."""
        last: object = None
        moved = time.monotonic()
        while True:
            self._check(supervisor)
            state = await self._left(app)
            seen = (state, self.progress.relayed, tuple(self.progress.handled.items()))
            if state == 0 and seen == last:
                return
            if seen != last:
                last, moved = seen, time.monotonic()
            elif time.monotonic() - moved > _STALLED.total_seconds():
                self.view.say(f"nothing has moved for {_STALLED.total_seconds():g} s: going on")
                return
            await asyncio.sleep(2 * _POLL_SECONDS)

    async def _left(self, app: Seaway) -> int | None:
        """How many messages are on their way; ``None`` while the server cannot be asked."""
        store = await app.open_store()
        try:
            left = (await store.backlog()).count
            for stream in (STREAM, redrive_stream(CONTEXT)):
                for info in await app.broker.admin.consumers(stream):
                    if not info.ephemeral:  # Whoever reads the stream is.
                        left += info.num_pending + info.num_ack_pending
        except TransientError:
            return None
        return left

    @asynccontextmanager
    async def _observed(
        self, app: Seaway, store: Store, supervisor: Supervisor
    ) -> AsyncIterator[None]:
        observing = asyncio.create_task(self._observe(app, store, supervisor))
        try:
            yield
        finally:
            observing.cancel()
            await asyncio.gather(observing, return_exceptions=True)

    async def _observe(self, app: Seaway, store: Store, supervisor: Supervisor) -> None:
        progress = self.progress
        with ExitStack() as stack:
            effects = {
                service.name: stack.enter_context(closing(_reader(self.folder, service.name)))
                for service in SERVICES
            }
            while True:
                written = progress.written
                try:
                    # Read after ``written``: what came meanwhile counts as not yet relayed.
                    progress.relayed = max(
                        progress.relayed, written - (await store.backlog()).count
                    )
                    letters = await app.broker.admin.stream(dlq_stream(CONTEXT))
                    progress.dead = letters.messages if letters else 0
                except TransientError:
                    # Away for the moment, as is part of the show: the figures stay as they are.
                    await asyncio.sleep(_POLL_SECONDS)
                for name, connection in effects.items():
                    (count,) = connection.execute("SELECT max(seq) FROM effects").fetchone()
                    progress.handled[name] = count or 0
                for name, child in supervisor.children.items():
                    progress.pids[name] = child.pid
                    progress.restarts[name] = child.restarts
                self.view.tick()
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(_POLL_SECONDS / 2)

    def _faults(self, supervisor: Supervisor) -> dict[str, int]:
        restarts = {
            f"{name} restarted": child.restarts for name, child in supervisor.children.items()
        }
        return restarts | {"nats-server stopped and started": self.outages}


def _reader(folder: Folder, name: str) -> sqlite3.Connection:
    return sqlite3.connect(folder.database(name), timeout=30, isolation_level=None)


@asynccontextmanager
async def embedded_server(folder: Folder) -> AsyncIterator[NatsServer]:
    """The demo's own nats-server on the folder's streams, whatever an earlier run left."""
    await _outlive_the_last_server(folder)
    async with NatsServer(store_dir=folder.streams) as server:
        remember_server(folder, server)
        yield server


def remember_server(folder: Folder, server: NatsServer) -> None:
    """Note its pid, so that the next run in this folder can wait for its end."""
    (folder.path / "nats.pid").write_text(str(server.pid))


async def _outlive_the_last_server(folder: Folder) -> None:
    # A server whose demo was killed is ending, but two must never have one store open.
    try:
        pid = int((folder.path / "nats.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    for _ in range(int(_SERVER_END.total_seconds() / _POLL_SECONDS)):
        if not _runs(pid):
            return
        await asyncio.sleep(_POLL_SECONDS)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    return True
