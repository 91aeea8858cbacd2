"""The consumer at work: pull -> lanes -> inbox and handler in one transaction -> settle.

    server ──pull──> in hand ──take──> running ──commit──> ack
                       ^  |               |  └─ refused by the handler ─> nak: lane held, comes back
                       |  |               |  └─ poison, exhausted ──────> dead letter stored, ack
                       |  └── heartbeat ──┘  └─ database or downstream away ─┐
                       └────────────────────────── put back, pause, probe <──┘

Authoritative: the durable on the server for what is pending, the inbox for what has taken effect.
A crash anywhere leaves the message unacknowledged: it comes again and meets the inbox.

Order: of one ordering key, effects follow the stream while one process runs the durable, over its
own crashes too (ADR 0014), and over all processes of an exclusive durable (ADR 0012). Those of
any other each keep the order of what they are given, and the server deals a key's events to
whichever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from seaway.consumer.handlers import HandlerTable
from seaway.consumer.options import Options
from seaway.consumer.pace import HORIZON
from seaway.consumer.ports import Ports
from seaway.consumer.pulling import Puller
from seaway.consumer.run import Run, by_source
from seaway.consumer.settling import Settler
from seaway.consumer.transacting import Transactor
from seaway.consumer.working import Workers
from seaway.waiting import set_within

_LEAVING_SECONDS = 1.0
"""How long a subscription has to be left, also where the grace is over by then."""


def _cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


class Runtime:
    """Runs one consumer on its durable: starts its parts, keeps alive what is in hand, drains."""

    def __init__(
        self,
        durable: str,
        streams: Sequence[str],
        handlers: HandlerTable,
        options: Options,
        ports: Ports,
    ) -> None:
        self._durable = durable
        self._streams = streams
        self._handlers = handlers
        self._options = options
        self._ports = ports

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, then drain. Raises the first thing that no retry can mend."""
        run = Run(self._durable, self._options, self._ports, stop, self._handlers)
        infos = [await run.info(stream) for stream in self._streams]
        if stop.is_set() or infos[0] is None:
            return
        run.learn(infos[0])
        try:
            async with asyncio.TaskGroup() as tasks:
                settler = Settler(run, tasks.create_task)
                workers = Workers(run, Transactor(run), settler)
                pulling: set[asyncio.Task[None]] = set()

                def pull(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                    pulling.add(task := tasks.create_task(work))
                    return task

                puller = Puller(run, settler, pull)
                watching = tasks.create_task(run.deadlines.watch())
                tasks.create_task(_heartbeat(run), name=f"{self._durable} heartbeat")
                working = [
                    tasks.create_task(workers.work(), name=f"{self._durable} worker {number}")
                    for number in range(self._options.workers)
                ]
                for stream in self._streams:
                    pull(puller.pull(stream))
                await stop.wait()
                ends = run.now() + self._options.grace.total_seconds()
                run.hurry()
                await _drain(run, puller, settler, working)
                await settler.confirmed()
                run.heard.remind(rest=True)
                watching.cancel()
                run.drained.set()
                # Whoever still asks a server that does not answer has nothing to lose.
                late = asyncio.get_running_loop().call_later(
                    max(_LEAVING_SECONDS, ends - run.now()), _cancel_all, pulling
                )
                await asyncio.wait(pulling)
                late.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


async def _heartbeat(run: Run) -> None:
    """Restart the ack timer of everything in hand, running or waiting."""
    interval = run.limits.ack_wait / 3
    while not run.drained.is_set():
        run.breaker.remind()
        run.heard.remind()
        for source, batch in by_source(run.beat()):
            await source.in_progress(*batch)
        await set_within(interval, run.drained)


async def _drain(
    run: Run, puller: Puller, settler: Settler, working: Sequence[asyncio.Task[None]]
) -> None:
    """What starts in a moment is worked off: given back, each stop would cost it a delivery. The
    rest goes to others at once."""
    ends = run.now() + run.options.grace.total_seconds()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(ends):
            await puller.dry()
    lanes, now = run.lanes, run.now()
    await settler.give_back(lanes.blocked() if run.soon else lanes.waiting())
    run.last = True
    run.hurry()
    for until in (min(ends, now + 2 * HORIZON.total_seconds()), ends):
        _, late = await asyncio.wait(working, timeout=max(0.0, until - run.now()))
        await settler.give_back(lanes.waiting())
    for worker in late:
        worker.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await settler.burials.end(ends)
    await settler.give_back(lanes.waiting())
