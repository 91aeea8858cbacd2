"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from seaway.dead_letters import DeadLetters, Letter
from seaway.mending.runs import Transform

if TYPE_CHECKING:
    from seaway.mending.previewing import Preview
    from seaway.mending.transforming import Mended


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them."""

    def mended(
        self, letters: Sequence[Letter], transform: Transform | None
    ) -> AsyncGenerator[Mended]:
        """What ``transform`` makes of each letter's event, in this order; nothing is sent.

        One whose event cannot be had stays, with the reason, and holds up no other;
        ``TransientError`` ends it. Close it where you leave it early.
        """
        from seaway.mending.previewing import mended_all

        return mended_all(self, letters, transform)

    async def preview(self, letters: Sequence[Letter], transform: Transform) -> Preview:
        """The same grouped: by what changes, or why letters stay, with one sample of each."""
        from seaway.mending.previewing import Preview

        found = Preview()
        async with aclosing(self.mended(letters, transform)) as each:
            async for one in each:
                found.take(one)
        return found
