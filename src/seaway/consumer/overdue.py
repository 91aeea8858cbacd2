"""What was given back and has not come again: its key waits for it, but not for ever.

Others may have been given it, and then the inbox knows or will know; or it is in the stream no
more. Between two looks this process ran: where it was stopped meanwhile, what comes again may lie
here unread.
"""

from __future__ import annotations

from seaway import logs
from seaway.consumer.state import State
from seaway.consumer.trying import settled

logger = logs.logger("seaway.consumer")

_LOOKS = 4


async def look_after(state: State, now: float) -> None:
    """Have keys go on without what is settled, or does not come any more."""
    overdue = state.lanes.overdue(now)
    if not overdue:
        return
    later = now + state.limits.ack_wait.total_seconds()
    for awaited in overdue:
        # Others who have the turn go through its key in order: it comes here in our next one.
        awaited.looks += not awaited.source.standby
        awaited.until = later
    done = await settled(state, [awaited.incoming for awaited in overdue])
    for awaited in overdue:
        place = awaited.incoming.place
        if place in done or state.setup.store is None:
            state.lanes.release(place)
        elif awaited.looks >= _LOOKS:
            logger.warning(
                "%s: %s:%d was given back and has not come again: its key goes on without it",
                *(state.setup.durable, *place),
            )
            state.lanes.release(place)
