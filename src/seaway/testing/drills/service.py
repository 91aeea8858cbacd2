"""``python -m seaway.testing.drills.service``: one process of the drilled durable.

Owns: a handler that fails as its ``Temper`` says, and the notes of its calls, which outlive a
``kill -9`` and a rollback. Knows nothing of the faults from outside. Guarantees: an effect is one
plain insert in the delivery's transaction, and nothing in the table would stop a second one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from seaway.app import Seaway
from seaway.config import load_settings
from seaway.consumer import Delivery
from seaway.demo.scenario import draw
from seaway.demo.worker import end_with_parent, loop_factory
from seaway.errors import Poison, Retry
from seaway.events import RawEvent

SERVICE, CONTEXT = "worker", "drill"

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

    async def show(self, number: int, delivery: Delivery) -> None:
        """Behave so on this delivery: raise, take long, die, or nothing."""
        match self.kind(number):
            case "poison":
                raise Poison(f"number {number} can never be handled")
            case "transient" if delivery.deliveries <= _FAILING_DELIVERIES:
                if number % 2:
                    raise Unreachable("the register did not answer")
                raise Retry("the register is busy", after=timedelta(milliseconds=100))
            case "slow" if delivery.deliveries == 1:
                await asyncio.sleep(self.slow_seconds)
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                await asyncio.sleep(self.work_seconds)


def arguments(config: Path, temper: Temper, notes: Path, *, workers: int) -> Sequence[str]:
    """What to run as ``python -m ...``; a process notes its calls in ``notes`` under its pid."""
    told = ["--temper", json.dumps(asdict(temper)), "--workers", str(workers)]
    return [__spec__.name, "--config", str(config), "--notes", str(notes), *told]


def declare(app: Seaway, temper: Temper, notes: int, *, workers: int) -> None:
    """Tie the handler to the durable; ``notes`` is the descriptor that it writes its calls to."""
    consumer = app.consumer(SERVICE, from_context=CONTEXT, workers=workers)

    @consumer.handler(RawEvent)
    async def take_effect(event: RawEvent, delivery: Delivery) -> None:
        os.write(notes, f"{delivery.event_id}\n".encode())
        number = int(json.loads(event.payload)["number"])
        await temper.show(number, delivery)
        await delivery.tx.execute(
            "INSERT INTO effects (event_id, key, deliveries) VALUES ($1, $2, $3)",
            delivery.event_id,
            delivery.key,
            delivery.deliveries,
        )


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m seaway.testing.drills.service")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--temper", type=json.loads, required=True)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    app = Seaway(load_settings(given.config, environ={}), wait=True)
    note = os.open(given.notes / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    declare(app, Temper(**given.temper), note, workers=given.workers)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.run(relay=False))


if __name__ == "__main__":
    main()
