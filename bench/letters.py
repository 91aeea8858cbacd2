"""Many dead letters on a server of their own, and what it costs to look at them.

    .venv/bin/python -m bench.letters                       # 100,000 letters, then the commands
    .venv/bin/python -m bench.letters --count 50000 --keep  # leaves the server up until Ctrl-C

The letters are of three consumers and four causes, as those write them, of events that lie in their
stream; one in twenty only waits behind an earlier one of its key, and a hundred are foreign. They
are published in batches, and no handler is run. Each command is a process of its own: its time from
start to end, the interpreter's included, what of that it computed itself, and its peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from seaway import headers as h
from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import Broker, DeadLetterReason, Incoming, Message, Stored
from seaway.dead_letters import writing
from seaway.embedded.nats_server import NatsServer

STREAM, QUEUE = "SEA_EVENTS", "SEA_DLQ"
DURABLES = ("case_mgmt__from_sea", "billing__from_sea", "analytics__from_sea")
EVENTS = ("case_created", "case_moved", "payment_received")
KEYS = 5_000
WAITING, FOREIGN = 20, 100
"""One in so many waits; so many are foreign."""
BATCH = 1_000
TIMEOUT = timedelta(seconds=60)

HANDLERS = """
def open_case(event):
    check(event)

def check(event):
    raise ValueError(f"case {event['number']} has no owner")

def convert(event):
    return {"DKK": 1}[event["currency"]]

def bill(event):
    convert(event)

def settle(event):
    raise TimeoutError("the ledger did not answer within 5 s")

def count(event):
    event["lines"]
"""


def handlers() -> Sequence[tuple[str, object]]:
    """``(durable, function)``: four ways to fail, as if they lay in ``/app/cases/handlers.py``."""
    names: dict[str, object] = {}
    exec(compile(HANDLERS, "/app/cases/handlers.py", "exec"), names)
    case, bill, analyse = DURABLES
    found = ((case, "open_case"), (bill, "bill"), (bill, "settle"), (analyse, "count"))
    return [(durable, names[name]) for durable, name in found]


def failure(handler: object, event: dict[str, object]) -> Exception:
    """What it raises, with its traceback alone."""
    assert callable(handler)
    try:
        handler(event)
    except Exception as error:
        trace = error.__traceback__
        return error.with_traceback(trace and trace.tb_next)
    raise AssertionError("it has not failed")


def events(count: int) -> Iterator[tuple[Message, dict[str, object]]]:
    """With what their payloads say."""
    chance = random.Random(count)
    began = datetime.now(UTC) - timedelta(days=1)
    for number in range(count):
        amount, currency = chance.randrange(1_000), chance.choice(("EUR", "SEK"))
        payload: dict[str, object] = {"number": number, "amount": amount, "currency": currency}
        text = f'{{"number": {number}, "amount": {amount}, "currency": "{currency}"}}'
        headers = {
            h.MSG_ID: f"{number:032x}",
            h.CORRELATION_ID: f"{number:032x}",
            h.ORDERING_KEY: f"case-{chance.randrange(KEYS)}",
            h.EVENT_VERSION: "1",
            h.CONTENT_TYPE: "application/json",
            h.OCCURRED_AT: h.format_time(began + timedelta(milliseconds=number)),
        }
        subject = f"sea.event.{EVENTS[number % len(EVENTS)]}.v1"
        yield Message(subject, text.encode(), headers), payload


def letters(count: int) -> Iterator[Message]:
    """The letters of ``events``."""
    ways, now = handlers(), datetime.now(UTC)
    for place, (message, payload) in enumerate(events(count), start=1):
        durable, handler = ways[place % len(ways)]
        waits = place % WAITING == 0
        reason: DeadLetterReason = "parked" if waits else "exhausted"
        yield writing.write(
            Incoming(message, STREAM, place, now, durable, place, 1 if waits else 20, 0),
            reason=reason,
            error=None if waits else failure(handler, payload),
            failed_at=now - timedelta(days=1) + timedelta(milliseconds=100 * place),
            room=1024 * 1024,
        )


def foreign() -> Iterator[Message]:
    """As another program puts them there."""
    for number in range(FOREIGN):
        yield Message("sea.dlq.sea.event.case_created.v1", b'{"number": %d}' % -number, {})


async def fill(broker: Broker, count: int) -> None:
    """Make the streams, ``count`` events and their letters, and the foreign ones."""
    await broker.admin.server_info()
    wanted = topology.desired(settings_from_mapping(configuration(), environ={}))
    actual = await topology.actual(broker.admin, wanted)
    await topology.apply(topology.plan(wanted, actual), broker.admin)
    everything = (message for message, _ in events(count))
    for stream, messages in ((STREAM, everything), (QUEUE, chain(letters(count), foreign()))):
        while batch := list(islice(messages, BATCH)):
            outcomes = await broker.publish(stream, batch, timeout=TIMEOUT)
            refused = [one for one in outcomes if not isinstance(one, Stored)]
            assert not refused, refused[:1]


def configuration() -> dict[str, object]:
    """The settings, but for the server's address."""
    return {
        "streams": [{"name": STREAM, "replicas": 1}],
        "consumers": [{"stream": STREAM, "durable": one} for one in DURABLES],
    }


def measured(*command: str, folder: Path) -> tuple[float, float, int, str]:
    """Seconds, those of its processor, MiB at the peak, what it printed last on stderr."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode().splitlines()
    assert process.returncode == 0, lines
    own = usage.ru_utime + usage.ru_stime
    return time.monotonic() - began, own, usage.ru_maxrss // 1024, lines[-1] if lines else ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.letters")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--keep", action="store_true", help="leave the server up until Ctrl-C")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "seaway.yaml").write_text("contexts: [sea]\n")
        asyncio.run(work(Path(name), given.count, keep=given.keep))


async def work(folder: Path, count: int, *, keep: bool) -> None:
    """Fill a server, and measure the commands on it."""
    async with NatsServer(folder / "server") as server:
        began = time.monotonic()
        broker = await connect(NatsSettings(url=server.url))
        try:
            await fill(broker, count)
        finally:
            await broker.close()
        print(f"{count:,} letters made in {time.monotonic() - began:.1f} s: {server.url}")
        for arguments in COMMANDS:
            command = (sys.executable, "-m", "seaway", "-s", server.url, "dlq", *arguments)
            figures = await asyncio.to_thread(measured, *command, folder=folder)
            seconds, own, peak, said = figures
            shown = f"dlq {' '.join(arguments)}"
            print(f"{seconds:7.2f} s  {own:6.2f} s  {peak:5} MiB  {shown:60} {said}", flush=True)
        if keep:
            await asyncio.Event().wait()


COMMANDS: Sequence[Sequence[str]] = (
    ("ls", "--help"),
    ("ls",),
    ("ls", "--sort", "newest"),
    ("ls", "--after", f"{QUEUE}:50000"),
    ("ls", "--sort", "newest", "--after", f"{QUEUE}:50000"),
    ("ls", "--subject", "*.event.case_moved.v1"),
    ("ls", "--since", "22h"),
    ("ls", "--reason", "foreign"),
    ("ls", "--key", "case-7"),
    ("ls", "--error", "case 99999 has"),
    ("ls", "--where", "payload.amount>990", "--limit", "0"),
    ("ls", "--wide"),
    ("ls", "--limit", "0", "--json"),
    ("ls", "--group"),
    ("ls", "--group", "--consumer", DURABLES[1]),
)


if __name__ == "__main__":
    main()
