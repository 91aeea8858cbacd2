"""What was given back and has not come again: its key waits for it, but not for ever.

Others may have been given it, and then the inbox knows or will know; or it is in the stream no
more. Between two looks this process ran: where it was stopped meanwhile, what comes again may lie
here unread.
"""

from __future__ import annotations

from seaway import logs
from seaway.consumer.run import Run
from seaway.consumer.trying import settled

logger = logs.logger("seaway.consumer")

_LOOKS = 4


async def look_after(run: Run, now: float) -> None:
    """Have keys go on without what is settled, or does not come any more."""
    overdue = run.lanes.overdue(now)
    if not overdue:
        return
    later = now + run.limits.ack_wait.total_seconds()
    for held in overdue:
        # Others who have the turn go through its key in order: it comes here in our next one.
        held.looks += not held.source.standby
        held.until = later
    done = await settled(run, [held.incoming for held in overdue])
    for held in overdue:
        place = held.incoming.place
        if place in done or run.ports.store is None:
            run.lanes.release(place)
        elif held.looks >= _LOOKS:
            logger.warning(
                "%s: %s:%d was given back and has not come again: its key goes on without it",
                *(run.durable, *place),
            )
            run.lanes.release(place)
