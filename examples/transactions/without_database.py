"""SEAWAY_CONFIG=seaway.yaml python without_database.py"""

import asyncio

from events import CaseOpened

from seaway import Delivery, Seaway

app = Seaway.from_config()
cases = app.consumer("case_mgmt", from_context="sea", tx=None)


@cases.handler(CaseOpened)
async def tell(event: CaseOpened, delivery: Delivery) -> None:
    # May run again for the same event: let what it does be the same when done twice.
    print(delivery.event_id, event.title, flush=True)


asyncio.run(app.run())
