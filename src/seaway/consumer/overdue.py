"""What was given back and has not come again: its key waits for it, but not for ever.

Others may have been given it, and then the inbox knows or will know; or it is in the stream no
more. The inbox is asked soon, since others are mostly done at once, and then after pauses that grow
up to ``ack_wait``. Only what is not there after some of those is given up: between two looks this
process ran, and where it was stopped meanwhile, what comes again may lie here unread.
"""

from __future__ import annotations

from datetime import timedelta

from seaway import logs
from seaway.consumer.lanes import InHand
from seaway.consumer.state import State
from seaway.consumer.trying import settled

logger = logs.logger("seaway.consumer")

_FIRST = timedelta(milliseconds=250)
_LOOKS = 4
"""After so many pauses of ``ack_wait`` it is given up."""


def await_return(state: State, item: InHand, delay: timedelta) -> None:
    """It is given back and comes again after ``delay``, here or elsewhere."""
    # Without an inbox nobody knows what others have done.
    pause = state.limits.ack_wait if state.setup.store is None else _shortest(state)
    state.lanes.await_return(item, state.now() + (delay + pause).total_seconds())


def _shortest(state: State) -> timedelta:
    return min(_FIRST, state.limits.ack_wait)


async def look_after(state: State, now: float) -> None:
    """Have keys go on without what is settled, or does not come any more."""
    if not state.lanes.overdue(now):
        return
    shortest, longest = _shortest(state).total_seconds(), state.limits.ack_wait.total_seconds()
    # With those that would be next: so there is never more than one look in the shortest pause.
    overdue = state.lanes.overdue(now + shortest)
    for awaited in overdue:
        # Others who have the turn go through its key in order: it comes here in our next one.
        awaited.looks += awaited.pause >= longest and not awaited.source.standby
        awaited.pause = min(max(shortest, 2 * awaited.pause), longest)
        awaited.until = now + awaited.pause
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
