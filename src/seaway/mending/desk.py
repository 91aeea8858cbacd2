"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self, TypeAlias

from seaway.config import RESTORE_FOR, Settings
from seaway.contracts import Broker, DiscardedLetter, LogEntry, Run, Store
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.dead_letters.later import Scheduled, now_of
from seaway.dead_letters.reading import unread
from seaway.dead_letters.redriving import Target
from seaway.errors import ConfigError, NotFound
from seaway.mending import causes, changes, discarding, later, pages
from seaway.mending.causes import Group
from seaway.mending.discarding import Discarded, Keeping, Restored
from seaway.mending.later import Cancelled
from seaway.mending.pages import Page
from seaway.mending.past import PastRun, past_run
from seaway.mending.redriving import RedriveRun
from seaway.mending.runs import KIND, Plan, Transform
from seaway.naming import OPERATOR, dlq_stream, redrive_stream, stream_context
from seaway.process import operator

if TYPE_CHECKING:
    from seaway.mending.application import Application
    from seaway.mending.letter_test import LetterTest
    from seaway.mending.previewing import Preview
    from seaway.mending.transforming import Mended
    from seaway.mending.trying import TriedLetter

OpenDatabase: TypeAlias = Callable[[], Awaitable[Store]]
"""Gives the application's own database, verified; the same one every time."""


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them.

    ``opening``: gives the database in which is noted who did what, and in which discarded letters
    are kept for ``restore_for``.
    """

    application: Application | None = None
    """Whose handlers failed, where that is known: ``app.dead_letters`` has its own."""

    def __init__(
        self,
        broker: Broker,
        *,
        reader: str = OPERATOR,
        queues: Sequence[str] | None = None,
        opening: OpenDatabase | None = None,
        restore_for: timedelta = RESTORE_FOR,
    ) -> None:
        super().__init__(broker, reader=reader, queues=queues)
        self._opening = opening
        self.restore_for = restore_for

    @classmethod
    def configured(
        cls, broker: Broker, settings: Settings, opening: OpenDatabase | None = None
    ) -> Self:
        """Those of the contexts in ``settings``; where there are none, every one."""
        queues = [dlq_stream(stream.context) for stream in settings.streams]
        restore_for = settings.dead_letters.restore_for
        return cls(broker, queues=queues or None, opening=opening, restore_for=restore_for)

    async def database(self) -> Store:
        """The application's own; ``ConfigError`` where none was given, ``StoreUnavailable`` where
        it is away, ``SchemaMismatch`` where it lacks Seaway's tables."""
        if self._opening is None:
            raise ConfigError("these dead letters have no database at hand")
        return await self._opening()

    # ------------------------------------------------------------------ looking

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

    # ------------------------------------------------------------------ discarding

    async def discard(
        self, letter: Letter, *, why: str = "", by: str = "", for_good: bool = False
    ) -> bool:
        """``discard_all`` of one; whether it was in its queue."""
        outcomes = self.discard_all([letter], why=why, by=by, for_good=for_good)
        async with aclosing(outcomes):
            return [one.removed async for one in outcomes] == [True]

    async def discard_all(
        self, letters: Sequence[Letter], *, why: str = "", by: str = "", for_good: bool = False
    ) -> AsyncGenerator[Discarded]:
        """Take letters out of their queues, in this order; yields each. What waits behind them is
        handled from now on.

        They can be brought back (``restore``) for ``dead_letters.restore_for``. ``by`` (default:
        this process' user) did so, as the log says, and ``why``. Raises what ``database`` does;
        ``for_good``: without the database, so that nothing is kept and nothing noted, and a server
        that loses the end of a queue may bring them back. Cancelled, or ended by an error, it has
        discarded the letters that it has yielded, and perhaps fifty more, which are kept as well.
        Idempotent.
        """
        keeping = None
        if not for_good:
            keeping = Keeping(await self.database(), self.restore_for, by or operator(), why)
        outcomes = discarding.discard(self._broker.admin, letters, self.waiting, keeping)
        async with aclosing(outcomes):
            async for one in outcomes:
                yield one

    async def discarded(
        self,
        names: Collection[str] | None = None,
        *,
        consumer: str | None = None,
        limit: int = 100,
    ) -> Sequence[DiscardedLetter]:
        """The letters that can be brought back, ``bare``, the newest first; ``names``: by ids of
        letters or events. Asks the database alone."""
        store = await self.database()
        return await store.discarded_letters(names, consumer=consumer, limit=limit)

    async def restore(self, letter: str, *, by: str = "") -> Sequence[Restored]:
        """``restore_all`` of the letters of this id, or of this event: one, but for an event that
        several consumers gave up. ``NotFound`` says what became of those that are not there."""
        found = await self.discarded([letter])
        if not found:
            raise NotFound(await discarding.why_not(await self.database(), letter))
        outcomes = self.restore_all(found, by=by)
        async with aclosing(outcomes):
            done = [one async for one in outcomes]
        for one in done:
            if one.error is not None:
                raise one.error
        return done

    async def restore_all(
        self, letters: Sequence[DiscardedLetter], *, by: str = ""
    ) -> AsyncGenerator[Restored]:
        """Bring discarded letters back into their queues, as they were; yields each, with its new
        id, or with the error for which it stays away.

        It comes too late for those that had waited behind it and have been handled meanwhile.
        ``TransientError`` ends it: a queue or a database that is away. Idempotent, also where it is
        done by several at once.
        """
        store = await self.database()
        waiting = await self.waiting() if any(one.behind for one in letters) else ()
        given = self._broker, store, letters, waiting
        outcomes = discarding.restore(*given, by=by or operator())
        async with aclosing(outcomes):
            async for one in outcomes:
                yield one

    async def changes(self, name: str | None = None, *, limit: int = 100) -> Sequence[LogEntry]:
        """Who did what to letters, when and why, the newest first; ``name``: to this letter or
        event. Asks the database alone."""
        return await changes.changes(await self.database(), name, limit=limit)

    # ------------------------------------------------------------------ later

    async def scheduled(self, selection: Selection | None = None) -> Sequence[Scheduled]:
        """What the server is to send later, the next one first: retries that were put off, and
        letters that were redriven ``at`` a time; each as the letter that it becomes if it is
        cancelled, ``bare``. Ids are ``SEA_REDRIVE:17``, or event ids. Empty where nothing waits.
        """
        contexts = await self._contexts()
        wanted = selection or Selection()
        found = later.scheduled(self._broker, contexts, wanted, reader=self.reader)
        return sorted([one async for one in found], key=lambda one: (one.at is None, one.at))

    async def clock(self) -> datetime:
        """The time by the server's clock, which it sends by; this machine's where it does not say
        (before nats-server 2.10), or has no stream of redrives."""
        for context in await self._contexts():
            info = await self._broker.admin.stream(redrive_stream(context))
            if info is not None:
                return now_of(info)
        return now_of(None)

    async def _contexts(self) -> Sequence[str]:
        queues = sorted(await self.count()) if self._queues is None else self._queues
        return [stream_context(queue) for queue in queues]

    async def cancel(
        self, waiting: Scheduled, *, by: str = "", why: str = "", noted: bool = True
    ) -> Cancelled:
        """Have one of ``scheduled`` not be sent: its event becomes a letter, which can be redriven
        or discarded.

        ``by`` (default: this process' user) did so, as the log says, and ``why``; raises what
        ``database`` does before anything is done. ``noted``: else without the database.
        ``NotFound`` where it waits no more; the others as ``later.cancel``.
        """
        store = await self.database() if noted else None
        done = await later.cancel(self._broker, waiting)
        if store is not None:
            letter = waiting.letter
            moved = changes.Moved(done.letter, letter.event_id, letter.consumer, waiting.id)
            await changes.note_changes(store, "cancelled", [moved], by=by or operator(), why=why)
        return done

    # ------------------------------------------------------------------ as a test

    async def as_test(
        self, letter: Letter, *, redact: Sequence[str] = (), app: str | None = None
    ) -> LetterTest:
        """A pytest that fails as ``letter`` did, and passes once its handler is right: its text is
        ``source``, and ``notes`` say what is not in it. Changes nothing.

        ``redact``: fields of the payload whose values are replaced by others of their type, as
        dotted paths: ``customer.name``, ``items.*.iban``. ``app``: ``module:name`` of the
        application; default: where an imported module has it. The database is asked what the inbox
        says of the event, if it is at hand.

        ``NotFound`` where the letter or its payload has gone; ``ConfigError`` for a letter with a
        ``problem``, one that the application has no handler for, or a field that is not there.
        """
        from seaway.mending.testing_letters import Gathering, name_of  # Handlers and their classes.

        if self.application is None:
            raise ConfigError("no application is known", hint="use app.dead_letters")
        app = app or name_of(self.application)
        return await Gathering(self, self.application, app, redact, self.database).made(letter)

    # ------------------------------------------------------------------ runs of redrives

    async def run(self, plan: Plan, *, noted: bool = True) -> RedriveRun:
        """A run of redrives, which goes on where the same plan was stopped.

            run = await app.dead_letters.run(Plan(selection=..., canary=10))
            async with aclosing(run.outcomes()) as outcomes:
                async for one in outcomes:
                    print(one.id, one.became, one.detail)
            print(run.state, run.why)

        ``noted``: in the database, whose inbox says what became of letters; raises what
        ``database`` does. Else it cannot wait for that, nor be gone on with.
        """
        store = await self.database() if noted else None
        return RedriveRun(self._broker, self, plan, store)

    async def runs(self, *, limit: int = 20) -> Sequence[Run]:
        """Runs of redrives, the newest first. Asks the database alone."""
        return await (await self.database()).runs(KIND, limit=limit)

    async def past_run(self, run: str) -> PastRun:
        """One of them, with what has become of its letters by now. ``NotFound`` where there is
        none of that id. Changes nothing."""
        return await past_run(await self.database(), run, self._broker, self)

    # ------------------------------------------------------------------ changed by code

    def mended(
        self,
        letters: Sequence[Letter],
        transform: Transform | None,
        *,
        to: Target = "consumer",
    ) -> AsyncGenerator[Mended]:
        """What ``transform`` makes of each letter's event, in this order; nothing is sent.

        One whose event cannot be had stays, with the reason, and holds up no other;
        ``TransientError`` ends it. Close it where you leave it early.
        """
        from seaway.mending.previewing import mended_all

        return mended_all(self, letters, transform, to=to)

    async def preview(
        self, letters: Sequence[Letter], transform: Transform, *, to: Target = "consumer"
    ) -> Preview:
        """The same grouped: by what changes, or why letters stay, with one sample of each."""
        from seaway.mending.previewing import Preview

        found = Preview()
        async with aclosing(self.mended(letters, transform, to=to)) as each:
            async for one in each:
                found.take(one)
        return found

    def tried(
        self,
        letters: Sequence[Letter],
        app: Application,
        *,
        transform: Transform | None = None,
        within: timedelta | None = None,
    ) -> AsyncGenerator[TriedLetter]:
        """Each letter's event, changed by ``transform``, through the handler of ``app`` that
        failed, in a transaction that is rolled back: which would succeed now (``trying``). ``app``:
        the application, connected. ``within``: how long a handler may run; ``None``: its deadline,
        or a minute. Close it where you leave it early."""
        from seaway.mending.trying import tried_all

        return tried_all(self, letters, app, transform=transform, within=within)
