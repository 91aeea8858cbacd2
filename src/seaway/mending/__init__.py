"""Mending: what an operator does with many dead letters at a time.

``Mending`` is ``DeadLetters`` with more: ``app.dead_letters`` in Python, ``seaway dlq`` at a
terminal. Consumers and the sweeper, who only write letters, know nothing of it.
"""

from seaway.mending.causes import Group
from seaway.mending.desk import Mending
from seaway.mending.pages import Page

__all__ = ["Group", "Mending", "Page"]
