"""The run: from an empty folder (or one that was left in the middle) to the verdict.

Owns: the phases and their order. Guarantees: every phase can be repeated, so a run that was killed
anywhere goes on from its folder; whatever happens, no process that it started is left.

    prepare -> write, relay, consume (faults meanwhile) -> dead letters -> fix -> redrive
            -> reconcile
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from seaway.demo import services, writer
from seaway.demo.doubles import Doubles
from seaway.demo.folder import SERVICE, Folder
from seaway.demo.plan import Options, Plan, planned
from seaway.demo.reconcile import Reconciliation, gather, reconcile
from seaway.demo.scenario import (
    CONTEXT,
    repaired,
)
from seaway.demo.services import SERVICES, durable
from seaway.demo.view import Progress, View
from seaway.demo.writer import Writer, in_thread
from seaway.embedded.nats_server import NatsServer
from seaway.errors import TransientError
from seaway.proof.faults import Strike, restart, strike
from seaway.proof.reconciliation import Evidence
from seaway.proof.stage import Stage, configuration, configured, opened, prepare

ACK_WAIT = timedelta(seconds=5)
"""Short: nobody should watch a demo wait for what a killed process held."""
MAX_ACK_PENDING = 500

_POLL_SECONDS = 0.1
_AHEAD = 2000
"""How many events the service writes ahead of the slowest consumer: it is busy, not a flood."""
_STALLED = timedelta(seconds=90)
_CHAOS_SECONDS = 4.0
_REDRIVES = 3
_SERVER_END = timedelta(seconds=10)
_RELAY, _SERVER = "relay", "nats-server"


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


def strikes() -> Iterator[Strike]:
    """Each process three times in the middle of its work, the server once, half way.

    A relay by what it has relayed, a consumer by what it has handled, the server by the slowest.
    """
    for share in (0.15, 0.35, 0.70):
        for place, name in enumerate((_RELAY, *SERVICES)):
            yield Strike(share + 0.05 * place, "kill", name)
    yield Strike(0.50, "outage", _SERVER)


@dataclass(slots=True)
class Run:
    """One run in a claimed folder. ``go`` is its whole life."""

    folder: Folder
    plan: Plan
    options: Options
    progress: Progress
    view: View
    outages: int = 0

    async def go(self) -> Outcome:
        """From preparation to verdict. Cancelled, it stops what it started and keeps the folder."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(embedded_server(self.folder))
            stage = await stack.enter_async_context(self._stage(server))
            async with self._observed(stage):
                await self._work(stage, server)
                await self._mend(stage)
                self._enter("reconcile")
                await stage.supervisor.stop()
            found = await self._judge(stage)
            children = stage.supervisor.children.values()
            faults = {f"{child.name} restarted": child.restarts for child in children}
        faults[f"{_SERVER} stopped and started"] = self.outages
        return Outcome(found, faults, time.monotonic() - began)

    # ------------------------------------------------------------------ phases

    @asynccontextmanager
    async def _stage(self, server: NatsServer) -> AsyncIterator[Stage]:
        """Everything at work: the relay, and each service on a database of its own."""
        folder = self.folder
        told = {"seed": self.plan.seed, "fixed": str(folder.path / services.FIXED)}
        for name in SERVICES:
            await prepare(folder.url(name), services.TABLES)
            configured(folder.config(name), _configuration(server, folder, name))
        content = _configuration(server, folder, SERVICE)
        config, said = folder.config(SERVICE), self.view.say
        async with opened(config, content, CONTEXT, said, writer.TABLES) as stage:
            await stage.start_relay(_RELAY)
            for name in SERVICES:
                own = folder.config(name)
                await stage.start_service(name, services.declare, own, service=name, **told)
            yield stage

    async def _work(self, stage: Stage, server: NatsServer) -> None:
        """Write, with everything that can go wrong meanwhile, until all is quiet."""
        self._enter("write, relay, consume")
        writing = self._writer(stage)
        database = self.folder.database(SERVICE)
        doubles = Doubles(stage.app.broker, stage.stream, database, self.plan.seed)
        try:
            async with asyncio.TaskGroup() as tasks:
                works = (
                    tasks.create_task(writing.run(planned(self.plan))),
                    tasks.create_task(
                        doubles.run(lambda: self.progress.relayed >= self.plan.events)
                    ),
                )
                striking = tasks.create_task(self._chaos(stage, server))
                while not all(work.done() for work in works):
                    self.progress.written = writing.committed
                    self._check(stage)
                    await asyncio.sleep(_POLL_SECONDS)
                self.progress.written = writing.committed
                await self._quiet(stage)
                striking.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _writer(self, stage: Stage) -> Writer:
        groups = -(-self.plan.events // self.plan.group)
        pace = timedelta(seconds=_CHAOS_SECONDS / max(groups, 1) if self.options.chaos else 0)
        made = Writer(self.folder.database(SERVICE), stage.app.outbox, pace)

        def room() -> bool:
            handled = min(self.progress.handled.values(), default=0)
            # What lies in the dead letter queues will not be handled before the end.
            return made.committed - handled - self.progress.dead < _AHEAD

        made.room = room
        return made

    async def _chaos(self, stage: Stage, server: NatsServer) -> None:
        if not self.options.chaos:
            return

        async def carry_out(fault: Strike) -> None:
            if fault.fault == "kill":
                stage.supervisor.children[fault.victim].send(signal.SIGKILL)
                return
            seconds = self.options.outage.total_seconds()
            self.view.say(f"nats-server stopped for {seconds:g} s")
            self.outages += 1
            await restart(server, kill=False, down=seconds)
            self.view.say(f"nats-server started again as pid {server.pid}")

        await strike(tuple(strikes()), self._share_done, carry_out)

    async def _share_done(self) -> Mapping[str, float]:
        counts = {_RELAY: self.progress.relayed, **dict.fromkeys(SERVICES, 0)}
        counts |= self.progress.handled
        done = {name: count / max(self.plan.events, 1) for name, count in counts.items()}
        return done | {_SERVER: min(done.values())}

    async def _mend(self, stage: Stage) -> None:
        """Mend the handler, then redrive the letters to those that could not handle them."""
        self._enter("dead letters")
        self._enter("fix")
        (self.folder.path / services.FIXED).touch()
        self._enter("redrive")
        queue = stage.app.dead_letters
        for _ in range(_REDRIVES):
            letters = await queue.list()
            for letter in letters:
                # What the handler refused goes as it is, to the handler that now understands it.
                undecodable = letter.reason == "undecodable"
                await queue.redrive(
                    letter, payload=repaired(letter.payload) if undecodable else None
                )
            if not letters:
                return
            await self._quiet(stage)

    async def _judge(self, stage: Stage) -> Reconciliation:
        with closing(Evidence()) as evidence:
            await in_thread(lambda: gather(evidence, self.folder, SERVICES))
            await evidence.read(stage)
            return await in_thread(lambda: reconcile(evidence, SERVICES))

    # ------------------------------------------------------------------ watching

    def _enter(self, phase: str) -> None:
        self.progress.phase = phase
        self.view.say(phase)

    def _check(self, stage: Stage) -> None:
        failure = stage.supervisor.failed()
        if failure is not None:
            raise failure

    async def _quiet(self, stage: Stage) -> None:
        """Return when nothing is left to be done, or when nothing has moved for a long time."""
        left = await stage.at_rest(_STALLED)
        self._check(stage)
        if left:
            self.view.say(f"nothing has moved for {_STALLED.total_seconds():g} s: going on")

    @asynccontextmanager
    async def _observed(self, stage: Stage) -> AsyncIterator[None]:
        observing = asyncio.create_task(self._observe(stage))
        try:
            yield
        finally:
            observing.cancel()
            await asyncio.gather(observing, return_exceptions=True)

    async def _observe(self, stage: Stage) -> None:
        progress = self.progress
        with ExitStack() as stack:
            effects = {
                name: stack.enter_context(closing(_reader(self.folder, name))) for name in SERVICES
            }
            while True:
                written = progress.written
                try:
                    # Read after ``written``: what came meanwhile counts as not yet relayed.
                    backlog = (await stage.store.backlog()).count
                    progress.relayed = max(progress.relayed, written - backlog)
                    progress.dead = await stage.letters()
                except TransientError:
                    # Away for the moment, as is part of the show: the figures stay as they are.
                    await asyncio.sleep(_POLL_SECONDS)
                for name, connection in effects.items():
                    (count,) = connection.execute("SELECT max(seq) FROM effects").fetchone()
                    progress.handled[name] = count or 0
                for child in stage.supervisor.children.values():
                    progress.pids[child.name] = child.pid
                    progress.restarts[child.name] = child.restarts
                self.view.tick()
                await asyncio.sleep(_POLL_SECONDS / 2)


def _configuration(server: NatsServer, folder: Folder, name: str) -> Mapping[str, Any]:
    return configuration(
        server.url,
        folder.url(name),
        [CONTEXT],
        map(durable, SERVICES),
        ack_wait=ACK_WAIT,
        max_ack_pending=MAX_ACK_PENDING,
    )


def _reader(folder: Folder, name: str) -> sqlite3.Connection:
    return sqlite3.connect(folder.database(name), timeout=30, isolation_level=None)


@asynccontextmanager
async def embedded_server(folder: Folder) -> AsyncIterator[NatsServer]:
    """The demo's own nats-server on the folder's streams, whatever an earlier run left."""
    noted = folder.path / "nats.pid"
    # A server whose demo was killed is ending, but two must never have one store open.
    for _ in range(int(_SERVER_END.total_seconds() / _POLL_SECONDS)):
        if not _runs(noted):
            break
        await asyncio.sleep(_POLL_SECONDS)
    pid_file = f"pid_file: {json.dumps(str(noted.absolute()))}"
    async with NatsServer(store_dir=folder.streams, extra_config=pid_file) as server:
        yield server


def _runs(noted: Path) -> bool:
    """Whether the server that wrote its pid there does."""
    try:
        os.kill(int(noted.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
