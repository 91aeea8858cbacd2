"""A relay in a process of its own, until SIGTERM.

python -m bench.contenders.relaying DATABASE NATS notify|poll
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Telemetry


async def relay(database: str, nats: str, *, notify: bool) -> None:
    """Relay until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = await open_store(database, listen=notify)
    broker = await connect(NatsSettings(url=nats))
    await Relay(store, broker, telemetry=Telemetry()).run(stop)
    await broker.close()
    await store.close()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], sys.argv[2], notify=sys.argv[3] == "notify"))
