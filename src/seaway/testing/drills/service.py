"""The drilled service: a handler that fails as its ``Temper`` says, in several processes.

Owns: the handler, and the notes of its calls, which outlive a ``kill -9`` and a rollback. Knows
nothing of the faults from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seaway.app import Seaway
from seaway.consumer import Delivery
from seaway.errors import Poison, Retry
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.proof.faults import draw
from seaway.proof.ledger import take_effect
from seaway.proof.stage import Stage
from seaway.proof.supervisor import Child
from seaway.testing.drills.plain import PLAIN
from seaway.testing.drills.stage import CONTEXT

SERVICE = "worker"
DURABLE = Durable.from_context(SERVICE, CONTEXT)

Handlers: TypeAlias = Literal["async", "sqlalchemy", "django"]
"""What they work with: the application's store, or one of ``plain.PLAIN``."""
Kind: TypeAlias = Literal["plain", "poison", "transient", "slow", "deadly"]

_FAILING_DELIVERIES = 2


class Unreachable(ConnectionError):
    """A system that the handler calls did not answer; it will, later."""


@dataclass(frozen=True, slots=True)
class Temper:
    """How the handler behaves. Shares are of all events; an event keeps its kind.

    ``poison`` never succeeds, ``transient`` fails on its first two deliveries, ``slow`` takes
    ``slow_seconds`` on its first, and handling one of the numbers in ``deadly`` kills the process.
    ``work_seconds`` is what every call takes.
    """

    seed: int = 0
    poison: float = 0.0
    transient: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.0
    work_seconds: float = 0.0
    deadly: tuple[int, ...] = ()

    def kind(self, number: int) -> Kind:
        """What the event of this number is."""
        if number in self.deadly:
            return "deadly"
        chance = draw(self.seed, number)
        shares: tuple[tuple[Kind, float], ...] = (
            ("poison", self.poison),
            ("transient", self.transient),
            ("slow", self.slow),
        )
        for kind, share in shares:
            if chance < share:
                return kind
            chance -= share
        return "plain"

    def show(self, number: int, delivery: Delivery) -> float:
        """Behave so on this delivery: raise, die, or say how many seconds it has to take."""
        match self.kind(number):
            case "poison":
                raise Poison(f"number {number} can never be handled")
            case "transient" if delivery.deliveries <= _FAILING_DELIVERIES:
                if number % 2:
                    raise Unreachable("the register did not answer")
                raise Retry("the register is busy", after=timedelta(milliseconds=100))
            case "slow" if delivery.deliveries == 1:
                return self.slow_seconds
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
        return self.work_seconds


async def start(
    stage: Stage, processes: int, temper: Temper, *, workers: int, handlers: Handlers = "async"
) -> None:
    """Handle from now on, in so many processes."""
    notes = _notes(stage)
    notes.mkdir()
    told: dict[str, Any] = {"temper": asdict(temper), "notes": str(notes), "workers": workers}
    told["handlers"] = handlers
    for number in range(1, processes + 1):
        await stage.start_service(f"{SERVICE} {number}", declare, **told)


def running(stage: Stage) -> Sequence[Child]:
    """The processes of the durable."""
    children = stage.supervisor.children.items()
    return [child for name, child in children if name.startswith(SERVICE)]


def called(stage: Stage, child: Child) -> float:
    """When the handler of this process was called last, on the file system's clock; 0: not yet."""
    noted = _notes(stage) / str(child.pid)
    return noted.stat().st_mtime if noted.exists() and noted.stat().st_size else 0.0


def at_work(stage: Stage) -> Child:
    """The process whose handler was called last."""
    return max(running(stage), key=lambda child: called(stage, child))


def calls(stage: Stage) -> Sequence[str]:
    """An event id for each time that a handler was called."""
    return [
        line for file in sorted(_notes(stage).iterdir()) for line in file.read_text().splitlines()
    ]


def _notes(stage: Stage) -> Path:
    return stage.folder / "calls"


def declare(
    app: Seaway, *, temper: Mapping[str, Any], notes: str, workers: int, handlers: Handlers
) -> None:
    """Tie the handler to the durable; it notes its calls in ``notes``, a file for each process."""
    shown = Temper(**temper)
    note = os.open(Path(notes, str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begun(event: RawEvent, delivery: Delivery) -> tuple[int, float]:
        os.write(note, f"{delivery.event_id}\n".encode())
        number = int(event.json()["number"])
        return number, shown.show(number, delivery)

    if handlers == "async":
        consumer = app.consumer(SERVICE, from_context=CONTEXT, workers=workers)

        @consumer.handler(RawEvent)
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            number, seconds = begun(event, delivery)
            await asyncio.sleep(seconds)
            await take_effect(delivery, number)

        return
    tx, effect = PLAIN[handlers](app.settings.database)
    consumer = app.consumer(SERVICE, from_context=CONTEXT, workers=workers, tx=tx)

    @consumer.handler(RawEvent)
    def handle_plain(event: RawEvent, delivery: Delivery) -> None:
        number, seconds = begun(event, delivery)
        time.sleep(seconds)
        effect(delivery, number)
