"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

from seaway.contracts.history import HistoryStore
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.dead_letters.reading import unread
from seaway.errors import ConfigError
from seaway.mending import causes, pages
from seaway.mending.causes import Group
from seaway.mending.letter_test import LetterTest
from seaway.mending.pages import Page
from seaway.mending.testing_letters import Application, Gathering, name_of


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them."""

    application: Application | None = None
    """Whose handlers failed, where that is known: ``app.dead_letters`` has its own."""

    async def causes(
        self, selection: Selection | None = None, *, advance: Callable[[int], None] = unread
    ) -> Sequence[Group]:
        """The selected letters by their cause, the most first; empty where there are none.

        Reads the headers of each once, in bounded memory. ``advance`` is told how many more were
        looked at. ``Selection(cause=...)`` takes the letters of one.
        """
        selected = self.letters(selection, payloads=False, advance=advance)
        async with aclosing(selected) as letters:
            return await causes.group(letters)

    async def page(
        self,
        selection: Selection | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        newest: bool = False,
        count_behind: bool = False,
        advance: Callable[[int], None] = unread,
    ) -> Page:
        """At most ``limit`` (0: all) selected letters, ``bare``, in the order of ``letters``.

        Give the id of the last one as ``after`` for the next page. How many wait behind each is
        counted in queues of up to ``pages.COUNTED`` letters, or where ``count_behind`` says so:
        that reads all of them.
        """
        found: list[Letter] = []
        selected = self.letters(
            selection, payloads=False, after=after, newest=newest, advance=advance
        )
        async with aclosing(selected) as letters:
            async for letter in letters:
                found.append(letter)
                if limit and len(found) > limit:
                    break
        shown = found[:limit] if limit else found
        held = await self.held()
        behind = None
        if shown and (count_behind or held <= pages.COUNTED):
            parked = self.letters(Selection(reason="parked"), payloads=False, advance=advance)
            async with aclosing(parked) as waiting:
                behind = await pages.behind(shown, waiting)
        return Page(shown, len(found) > len(shown), held, behind)

    async def held(self) -> int:
        """How many letters these queues hold."""
        return sum(info.messages for info in await self.queues())

    async def as_test(
        self,
        letter: Letter,
        *,
        redact: Sequence[str] = (),
        app: str | None = None,
        history: HistoryStore | None = None,
    ) -> LetterTest:
        """A pytest that fails as ``letter`` did, and passes once its handler is right: its text is
        ``source``, and ``notes`` say what is not in it. Changes nothing.

        ``redact``: fields of the payload whose values are replaced by others of their type, as
        dotted paths: ``customer.name``, ``items.*.iban``. ``app``: ``module:name`` of the
        application; default: where an imported module has it. ``history``: the database (``await
        app.open_store()``), for what the inbox says of the event.

        ``NotFound`` where the letter or its payload has gone; ``ConfigError`` for a letter with a
        ``problem``, one that the application has no handler for, or a field that is not there.
        """
        if self.application is None:
            raise ConfigError("no application is known", hint="use app.dead_letters")
        app = app or name_of(self.application)
        return await Gathering(self, self.application, app, redact, history).made(letter)
