"""What was given back and has not come again: its key waits for it, but not for ever.

Others may have been given it, and then the inbox knows or will know; or it is in the stream no
more. The inbox is asked soon, since others are mostly done at once, and then after pauses that grow
up to ``ack_wait``. Only what is not there after some of those is given up: between two looks this
process ran, and where it was stopped meanwhile, what comes again may lie here unread.
"""

from __future__ import annotations

from datetime import timedelta

from seaway import logs
from seaway.consumer.lanes import Work
from seaway.consumer.run import Run
from seaway.consumer.trying import settled

logger = logs.logger("seaway.consumer")

_FIRST = timedelta(milliseconds=250)
_LOOKS = 4
"""After so many pauses of ``ack_wait`` it is given up."""


def wait_for(run: Run, work: Work, delay: timedelta) -> None:
    """It is given back and comes again after ``delay``, here or elsewhere."""
    # Without an inbox nobody knows what others have done.
    pause = run.limits.ack_wait if run.ports.store is None else _shortest(run)
    run.lanes.hold(work, run.now() + (delay + pause).total_seconds())


def _shortest(run: Run) -> timedelta:
    return min(_FIRST, run.limits.ack_wait)


async def look_after(run: Run, now: float) -> None:
    """Have keys go on without what is settled, or does not come any more."""
    if not run.lanes.overdue(now):
        return
    shortest, longest = _shortest(run).total_seconds(), run.limits.ack_wait.total_seconds()
    # With those that would be next: so there is never more than one look in the shortest pause.
    overdue = run.lanes.overdue(now + shortest)
    for held in overdue:
        # Others who have the turn go through its key in order: it comes here in our next one.
        held.looks += held.pause >= longest and not held.source.standby
        held.pause = min(max(shortest, 2 * held.pause), longest)
        held.until = now + held.pause
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
