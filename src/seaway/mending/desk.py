"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from seaway.dead_letters import DeadLetters


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them."""
