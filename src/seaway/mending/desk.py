"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from collections.abc import Sequence

from seaway.contracts.history import HistoryStore
from seaway.dead_letters import DeadLetters, Letter
from seaway.errors import ConfigError
from seaway.mending.letter_test import LetterTest
from seaway.mending.testing_letters import Application, Gathering, name_of


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them."""

    application: Application | None = None
    """Whose handlers failed, where that is known: ``app.dead_letters`` has its own."""

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
