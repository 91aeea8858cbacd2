"""Dead letters: stored with their error, seen, redriven to the failed consumer alone, discarded.

    a consumer gives up ─────────────────┐
    its last delivery died with it:      ├── sending ──> letter in {CONTEXT}_DLQ ──> discarded
      an advisory says so (sweeper)      │                    │            ^
      or nothing does (unreported) ──────┘           redriven │            │ fails again
                      by a person, or, of what only waited,   │            │
                      by the releaser, as it is its turn      └──> {CONTEXT}_REDRIVE ──> handled

Each way in writes the same letter, under the same id (``writing``); each way out is
``DeadLetters.redrive``, under an id that is the same for the same letter and payload. So whoever
comes twice, or dies half way, changes nothing.
"""

from seaway.dead_letters.letter import Letter
from seaway.dead_letters.queue import DeadLetters
from seaway.dead_letters.releaser import Releaser
from seaway.dead_letters.selection import Selection
from seaway.dead_letters.sweeper import Sweeper

__all__ = ["DeadLetters", "Letter", "Releaser", "Selection", "Sweeper"]
