"""How things stand with the database.

What one statement of a handler meets (a timeout, a lock, a limit, the end of its session) looks
like an outage to whoever reads codes. Only another transaction tells them apart, one that does as
little as every delivery does: what is refused to that is refused to all.
"""

from __future__ import annotations

import asyncio

from seaway.contracts import InboxStore
from seaway.errors import ConfigError, SeawayError, StoreUnavailable, TransactionConflict
from seaway.events import new_event_id

_ANSWER_SECONDS = 10.0


async def away(store: InboxStore | None, durable: str) -> StoreUnavailable | None:
    """Whether the database is: what a transaction of the consumer's own meets there; ``None``: it
    took effect, or there is no database.

    It is committed, since a full disk may not be met before that. The row that it leaves in the
    inbox is forgotten with the others. ``ConfigError`` where no waiting would help.
    """
    if store is None:
        return None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS), store.transaction() as tx:
            await tx.claim(f"{durable} probe", new_event_id())
    except TransactionConflict:
        return None
    except StoreUnavailable as error:
        return error
    except TimeoutError:
        return StoreUnavailable(f"the database did not answer within {_ANSWER_SECONDS:.0f} s")
    except ConfigError:
        raise
    except SeawayError as error:
        return StoreUnavailable(str(error))
    return None
