"""The consumer of case_service as a plain script, relay and sweeper with it, until Ctrl-C.

python case_worker.py
"""

import asyncio

from case_service import app

from seaway.telemetry import Delivered, Signal


def tell(signal: Signal) -> None:
    if isinstance(signal, Delivered):
        print(signal.outcome, signal.subject, flush=True)


app.telemetry.subscribe(tell)

if __name__ == "__main__":
    asyncio.run(app.run())
