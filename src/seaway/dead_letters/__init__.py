"""Dead letters: stored with their error, seen, redriven to the failed consumer alone, discarded."""

from seaway.dead_letters.letter import Letter, Selection
from seaway.dead_letters.queue import DeadLetters
from seaway.dead_letters.releaser import Releaser
from seaway.dead_letters.sweeper import Sweeper

__all__ = ["DeadLetters", "Letter", "Releaser", "Selection", "Sweeper"]
