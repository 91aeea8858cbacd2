"""Mending: what an operator does with many dead letters at a time.

``Mending`` is ``DeadLetters`` with more: ``app.dead_letters`` in Python, ``seaway dlq`` at a
terminal. Consumers and the sweeper, who only write letters, know nothing of it.

    desk ──> redriving: a run of redrives ──> sending: its letters, piece by piece
                │ noting: its row             └──> watching: what became of those sent
                └ past: what runs did
"""

from seaway.dead_letters.later import Scheduled
from seaway.mending.causes import Group
from seaway.mending.desk import Mending
from seaway.mending.discarding import Discarded, Restored
from seaway.mending.later import Cancelled
from seaway.mending.pages import Page
from seaway.mending.past import PastRun, past_run
from seaway.mending.redriving import RedriveRun
from seaway.mending.runs import Outcome, Plan, Refusal

__all__ = [
    "Cancelled",
    "Discarded",
    "Group",
    "Mending",
    "Outcome",
    "Page",
    "PastRun",
    "Plan",
    "RedriveRun",
    "Refusal",
    "Restored",
    "Scheduled",
    "past_run",
]
