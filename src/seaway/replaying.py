"""``Replaying``: a stream's history into a handler of an application, tried or handled again.

    plan ──> what it will do, in numbers ──> run ──> summary, in groups
      └─ shadow:    each event rolled back, its outcome beside what the inbox knows
      └─ reprocess: each event's inbox row goes and comes anew with the effect, in one transaction

Owns: who of an application is joined to what, and what is refused before anything begins.
Guarantees: those of ``history.replay`` and of ``consumer.trials``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self, TypeAlias

from seaway.app import Seaway
from seaway.consumer.trials import Tried
from seaway.contracts import (
    ConsumerInfo,
    Incoming,
    LogEntry,
    RunItem,
    Store,
    StoredMessage,
)
from seaway.errors import ConfigError
from seaway.history.replay.journal import Journal, journal_of, new_journal
from seaway.history.replay.ordering import in_order
from seaway.history.replay.shadow import Then, Try, compared
from seaway.history.replay.summary import Summary, now_of
from seaway.history.replay.window import Bound, Window, events, window_of
from seaway.naming import covers

Mode: TypeAlias = Literal["shadow", "reprocess"]
Advance: TypeAlias = Callable[[int], None]

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a window a consumer is given: ``events``, and how many have their effect."""

    events: int
    effects: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an event ``now`` and, in a shadow, ``then``. ``differs``: it ends in another way
    or, handled again, it failed."""

    message: StoredMessage
    now: Tried
    then: Then | None
    differs: bool

    @property
    def was(self) -> str:
        """``then`` in a word or two; empty where it was not asked."""
        if self.then is None:
            return ""
        return f"{self.then.known} ({self.then.reason})" if self.then.reason else self.then.known


def _silent(count: int) -> None:
    """Nobody watches."""


class Replaying:
    """A replay of ``window`` into ``consumer`` of a connected application. Made by ``plan``."""

    def __init__(
        self, app: Seaway, store: Store, consumer: str, mode: Mode, window: Window, journal: Journal
    ) -> None:
        self._app = app
        self._store = store
        self.consumer = consumer
        self.mode = mode
        self.window = window
        self.journal = journal
        self._info: ConsumerInfo | None = None
        self._filters: tuple[str, ...] = ()

    @classmethod
    async def plan(
        cls,
        app: Seaway,
        consumer: str,
        stream: str,
        mode: Mode,
        *,
        since: Bound = None,
        until: Bound = None,
        subject: str | None = None,
        key: str | None = None,
        by: str = "",
        asked: Mapping[str, Any] | None = None,
        anew: bool = False,
    ) -> Self:
        """What is meant, checked; nothing is changed. Where a run of the same is unfinished, it is
        that one: it goes on where it was, over the window that it began with.

        ``asked``: what makes it the same; default: the bounds, ``subject`` and ``key``. ``anew``:
        begin from the start all the same. ``ConfigError`` for what cannot be: an unknown consumer,
        one of another stream or without a database, a window that is none (``window_of``), a run
        that is at work, and to reprocess beside an exclusive consumer that is at work.
        """
        declared, store, admin = app.declared(consumer), await app.open_store(), app.broker.admin
        if declared.stream and declared.stream != stream:
            raise ConfigError(
                f"{consumer} handles events of {declared.stream}, not of {stream}",
                hint=f"seaway replay {declared.stream} --handler ...",
            )
        if declared.tx is None:
            raise ConfigError(
                f"{consumer} has no database (tx=None): nothing it does can be rolled back, and "
                "nothing tells what it has handled"
            )
        info = await admin.consumer(stream, consumer)
        if mode == "reprocess" and info is not None:
            _refuse_beside(info)
        about = f"{stream} {consumer}"
        wanted = {
            "mode": mode,
            **(asked or {"from": str(since), "to": str(until), "subject": subject, "key": key}),
        }
        filters = (subject,) if subject else _filters_of(app, consumer, info)
        journal = await journal_of(store, about, wanted, anew=anew)
        if journal is not None:
            fixed = journal.fixed
            window = Window(stream, fixed["first"], fixed["last"], tuple(filters), key)
        else:
            window = await window_of(
                admin, stream, since=since, until=until, filters=filters, key=key
            )
            fixed = {"first": window.first, "last": window.last}
            journal = new_journal(store, about, wanted, fixed, by=by)
        made = cls(app, store, consumer, mode, window, journal)
        made._info, made._filters = info, _filters_of(app, consumer, info)
        return made

    @property
    def after(self) -> int:
        """The sequence behind which it goes on."""
        return self.journal.summary.upto

    async def total(self) -> int:
        """How many messages are left to read."""
        return await self.window.count(self._app.broker.admin, after=self.after)

    async def extent(self, advance: Advance = _silent) -> Extent:
        """How many events there are for the consumer, and how many of them have their effect."""
        found = effects = 0
        chunk: list[str] = []

        async def known() -> int:
            return len(await self._store.claimed(self.consumer, set(chunk))) if chunk else 0

        async with aclosing(self._events(advance, headers_only=True)) as source:
            async for one in source:
                found += 1
                chunk.append(one.event_id)
                if len(chunk) == _AT_ONCE:
                    effects += await known()
                    chunk.clear()
        return Extent(found, effects + await known())

    async def run(
        self,
        *,
        workers: int = 1,
        within: timedelta | None = None,
        advance: Advance = _silent,
    ) -> Summary:
        """Work on all of it; what ``outcomes`` gives, in groups."""
        async with aclosing(
            self.outcomes(workers=workers, within=within, advance=advance)
        ) as found:
            async for _ in found:
                pass
        return self.journal.summary

    async def outcomes(
        self,
        *,
        workers: int = 1,
        within: timedelta | None = None,
        advance: Advance = _silent,
    ) -> AsyncGenerator[Outcome]:
        """Work on all of it, and give what comes of each event, in the order of the stream; events
        of one key one after the other, ``workers`` keys at a time.

        ``within``: how long a handler may run. Ended early, by leaving it, a signal, an error or
        kill -9, the same plan goes on behind what was noted. ``StoreUnavailable`` and
        ``BrokerUnavailable`` where something is away: run it again. Leave it by ``aclosing``.
        """
        await self.journal.begin()
        reprocess = self.mode == "reprocess"
        if reprocess and not self.journal.goes_on:
            await self._log("reprocess begun")  # Also of one that is killed somebody must know.
        run = self.journal.run if reprocess else None
        async with (
            self.journal.kept(),
            self._app.trials(self.consumer, within=within, run=run) as tried,
            aclosing(self._events(advance)) as source,
            aclosing(self._worked(source, tried, workers)) as found,
        ):
            async for one in found:
                self._add(one)
                yield one
        if reprocess:
            await self._log("reprocessed")

    async def _worked(
        self, source: AsyncGenerator[StoredMessage], tried: Try, workers: int
    ) -> AsyncGenerator[Outcome]:
        if self.mode == "shadow":
            floor = 0 if self._info is None else self._info.ack_floor
            retention = self._app.settings.inbox.retention or None
            comparing = compared(
                *(source, tried, self._store, self.consumer),
                floor=floor,
                retention=retention,
                workers=workers,
            )
            async with aclosing(comparing) as found:
                async for one in found:
                    yield Outcome(one.message, one.now, one.then, one.differs)
            return

        async def again(message: StoredMessage) -> Tried:
            return await tried(Incoming.read(message, self.consumer, deliveries=1))

        async with aclosing(in_order(source, again, workers=workers)) as handled:
            async for message, now in handled:
                yield Outcome(message, now, None, now.verdict in ("letter", "failed"))

    def _add(self, one: Outcome) -> None:
        message, now, then = one.message, one.now, one.was
        self.journal.summary.add(
            message.place, message.event_subject, now, then=then, differs=one.differs
        )
        if one.differs:
            state = f"{then} -> {now_of(now)}" if then else now_of(now)
            item = f"{message.stream}:{message.stream_seq:012d}"  # In order of its bytes.
            self.journal.note(RunItem(item, state, message.event_id, self.consumer, now.said))

    async def _events(
        self, advance: Advance, *, headers_only: bool = False
    ) -> AsyncGenerator[StoredMessage]:
        """Those that the consumer is given."""
        source = events(
            self._app.broker.admin, self.window, after=self.after, headers_only=headers_only
        )
        async with aclosing(source) as found:
            async for one in found:
                advance(1)
                subject = one.message.subject
                if not self._filters or any(covers(each, subject) for each in self._filters):
                    yield one

    async def _log(self, action: str) -> None:
        window, summary = self.window, self.journal.summary
        detail: dict[str, Any] = {
            "run": self.journal.run,
            "stream": window.stream,
            "from": window.first,
            "to": window.last,
            "key": window.key,
        }
        if action == "reprocessed":
            detail |= {"events": summary.events, "failed": summary.differing}
        # Whoever did it knows of it: ``seaway check`` tells nobody.
        await self._store.note(LogEntry(action, self.consumer, detail, self.journal.by), seen=True)


def _filters_of(app: Seaway, consumer: str, info: ConsumerInfo | None) -> tuple[str, ...]:
    """What its durable takes, as the server says or else the configuration."""
    if info is not None:
        return info.filters
    for one in app.settings.consumers:
        if one.durable == consumer:
            return one.filters
    return ()


def _refuse_beside(info: ConsumerInfo) -> None:
    at_work = info.num_waiting > 0 or info.given_to_one_since is not None
    if info.exclusive and at_work and info.paused_until is None:
        raise ConfigError(
            f"{info.durable} is exclusive and at work: beside it the order by key is not kept",
            hint=f"seaway consumer pause {info.stream} {info.durable}, or stop it",
        )
