"""Letters are discarded, each kept whole for a time; and brought back into their queues.

    discard:  kept in the database ──> gone from its queue ──> noted in the log
    restore:  gone from its queue ──> in the queue anew ──> kept no more ──> noted in the log

Guarantees: whoever dies between two steps leaves the letter in its queue, kept, or both, and the
same call made again goes on from there. A letter that is kept may still be in its queue: that is
taken out before it is brought back, so that it is there once. What is brought back has an id that
is made of what it was, and is looked for before: several who bring back one letter make one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

from seaway import headers as h
from seaway.contracts import (
    Broker,
    BrokerAdmin,
    DiscardedLetter,
    Held,
    Refused,
    Store,
    Stored,
    StoredMessage,
)
from seaway.dead_letters import Letter
from seaway.dead_letters.letter import again, read
from seaway.dead_letters.sending import Sender
from seaway.errors import BrokerUnavailable, ConfigError, NotFound, SeawayError, TransientError
from seaway.inbox.letters import note_discarded, take_back_discarded
from seaway.mending.changes import MOST_IDS, Moved, changes, note_changes
from seaway.naming import OPERATOR, kind_of

T = TypeVar("T")

_PAGE = 50
"""How many letters, which may be large, are in memory at a time."""
_CLOCKS_DIFFER = timedelta(minutes=10)
_EVER = datetime.max.replace(tzinfo=UTC)

Holding: TypeAlias = set[tuple[str, str]]
Waiting: TypeAlias = Callable[[], Awaitable[Sequence[Letter]]]
"""Gives all letters that wait behind others."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """What became of a letter that was to be discarded.

    ``removed``: false where it was not in its queue any more. ``until``: it can be brought back
    until then; ``None``: it is gone for good. ``behind``: how many letters waited for it, and are
    handled now.
    """

    letter: Letter
    removed: bool
    until: datetime | None = None
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of a letter that was to be brought back.

    ``id``: what it is called now; empty where it was not brought back, for this ``error``.
    ``late``: how many letters had waited for it, and have gone on without it.
    """

    letter: DiscardedLetter
    id: str = ""
    late: int = 0
    error: SeawayError | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where and for how long what is discarded is kept (0: not at all), and what is noted."""

    store: Store
    restore_for: timedelta
    by: str
    why: str = ""


async def discard(
    admin: BrokerAdmin, letters: Sequence[Letter], waiting: Waiting, keeping: Keeping | None
) -> AsyncGenerator[Discarded]:
    """See ``Mending.discard_all``."""
    behind = Behind(())
    looked = False
    going = {letter.id for letter in letters}
    removed: list[Letter] = []
    until: datetime | None = None

    async def note() -> None:
        if keeping is not None:
            said = keeping.store, "discarded", tuple(removed)
            removed.clear()
            await note_changes(*said, by=keeping.by, why=keeping.why, for_good=until is None)

    async def take_out(letter: Letter) -> None:
        if await admin.delete_message(*letter.stored.place):
            removed.append(letter)

    try:
        for page in _pages(letters):
            holding: Holding = set()
            if keeping is not None:
                holding = await _holding(keeping.store, page)
                if holding and not looked:
                    looked = True
                    behind = Behind(one for one in await waiting() if one.id not in going)
                until = await _keep(admin, page, holding, behind, keeping)
            if keeping is None or holding:  # In this order: what waits is free to go then.
                for letter in page:
                    await take_out(letter)
            else:
                await asyncio.gather(*map(take_out, page))
            gone = {letter.id for letter in removed}
            for letter in page:
                if letter.id in gone:
                    yield Discarded(letter, True, until, behind(letter))
                else:
                    yield Discarded(letter, False)
            if len(removed) >= MOST_IDS:
                await note()
    finally:
        await note()


class Behind:
    """How many letters wait behind others."""

    def __init__(self, waiting: Iterable[Letter]) -> None:
        self._counts = Counter((one.consumer, one.key) for one in waiting)

    def __call__(self, letter: Letter) -> int:
        """Those of its consumer and key; none where it waits itself."""
        return 0 if letter.waits else self._counts[letter.consumer, letter.key]


async def _holding(store: Store, page: Sequence[Letter]) -> Holding:
    """The consumers and events of ``page`` for which later events wait."""
    noted = await store.unhandled([letter.event_id for letter in page])
    return {(one.consumer, one.event_id) for one in noted if one.waiting}


async def _keep(
    admin: BrokerAdmin, page: Sequence[Letter], holding: Holding, behind: Behind, keeping: Keeping
) -> datetime | None:
    """Keep what of ``page`` is in its queue; until when."""
    store, until = keeping.store, None
    if keeping.restore_for:
        found = await asyncio.gather(*(admin.get(*one.stored.place) for one in page))
        kept = [
            DiscardedLetter(
                *(stored, letter.event_id, letter.consumer),
                holds=(letter.consumer, letter.event_id) in holding,
                behind=behind(letter),
                by=keeping.by,
                why=keeping.why,
            )
            for letter, stored in zip(page, found, strict=True)
            if stored is not None
        ]
        await store.keep_discarded(kept, keeping.restore_for)
        until = await store.now() + keeping.restore_for
    of: dict[str, list[Letter]] = {}
    for letter in page:
        if not letter.problem:
            of.setdefault(letter.consumer, []).append(letter)
    for consumer, some in of.items():
        await note_discarded(store, consumer, some)
    return until


# ------------------------------------------------------------------- bringing back


async def restore(
    broker: Broker,
    store: Store,
    letters: Sequence[DiscardedLetter],
    waiting: Sequence[Letter],
    *,
    by: str,
) -> AsyncGenerator[Restored]:
    """See ``Mending.restore_all``. ``waiting``: all letters that wait behind others."""
    behind, bringing = Behind(waiting), _Bringing(broker, store)
    letters = sorted(letters, key=lambda one: (one.stored.stored_at, one.stored.place))
    there = await bringing.there(letters)
    done: list[Moved] = []
    try:
        for page in _pages(letters):
            back, ends = await bringing.back(await _whole(store, page), there)
            for letter in page:
                late = max(0, letter.behind - behind(read(letter.stored, bare=True)))
                now = back.get(_place(letter))
                if isinstance(now, str):
                    done.append(Moved(now, letter.event_id, letter.consumer, letter.id))
                    yield Restored(letter, now, late)
                elif now is not None:
                    yield Restored(letter, error=now)
                elif ends is None:
                    yield Restored(letter, error=NotFound(await why_not(store, letter.id)))
            if ends is not None:
                raise ends
            if len(done) >= MOST_IDS:
                await note_changes(store, "restored", done, by=by)
                done = []
    finally:
        await note_changes(store, "restored", done, by=by)


Back: TypeAlias = dict[tuple[str, datetime], str | SeawayError]
"""Of each letter, what it is called now, or why it stays away."""


class _Bringing:
    """Brings letters back."""

    def __init__(self, broker: Broker, store: Store) -> None:
        self._admin = broker.admin
        self._sender = Sender(broker)
        self._store = store

    async def there(self, letters: Sequence[DiscardedLetter]) -> dict[str, int]:
        """Which of them lie in their queues already, brought back by somebody who died half way:
        their new ids, and where."""
        wanted, found = {_new_id(one): one for one in letters}, dict[str, int]()
        since: dict[str, datetime] = {}
        for one in letters:
            queue, at = one.stored.stream, one.discarded_at or datetime.now(UTC)
            since[queue] = min(at, since.get(queue, _EVER))
        for queue, at in since.items():
            if await self._admin.stream(queue) is None:
                raise BrokerUnavailable(f"there is no stream {queue}: run `seaway topology apply`")
            reading = self._admin.read(
                queue, from_time=at - _CLOCKS_DIFFER, headers_only=True, reader=OPERATOR
            )
            async with aclosing(reading):
                async for stored in reading:
                    its = stored.message.headers.get(h.MSG_ID, "")
                    # Where somebody else had foreseen it, it has a number more.
                    for name in (its, its.rpartition(":")[0]):
                        if name in wanted and _is_again(stored, wanted[name]):
                            found[name] = stored.stream_seq
        return found

    async def back(
        self, page: Sequence[DiscardedLetter], there: Mapping[str, int]
    ) -> tuple[Back, TransientError | None]:
        """Bring these back, but for those that are ``there``; what became of them, and what has
        ended it before all were."""
        await asyncio.gather(*map(self._take_out, page))
        rows = [(one, letter) for one in page if one.holds for letter in [read(one.stored)]]
        if rows:  # Nobody redrives or discards what has no row yet.
            async with self._store.transaction() as tx:
                for _, letter in rows:
                    place = 0 if kind_of(letter.stream) == "redrive" else letter.stream_seq
                    row = letter.consumer, letter.event_id, letter.key
                    await tx.park(*row, place=place, failed=not letter.waits)
        places, back, ends = await self._stored(page, there)
        if rows:
            async with self._store.transaction() as tx:
                for one, letter in rows:
                    if stream_seq := places.get(_place(one)):
                        await tx.set_letter(letter.consumer, letter.event_id, stream_seq)
        there_now = [one for one in page if _place(one) in places]
        of: dict[str, list[Letter]] = {}
        for letter in (read(one.stored) for one in there_now):
            if not letter.problem:
                of.setdefault(letter.consumer, []).append(letter)
        for consumer, some in of.items():
            await take_back_discarded(self._store, consumer, some)
        await self._store.take_discarded(there_now)
        for one in there_now:
            back[_place(one)] = f"{one.stored.stream}:{places[_place(one)]}"
        return back, ends

    async def _take_out(self, kept: DiscardedLetter) -> None:
        """Whoever discarded it has died before that, or is about to do so."""
        before = await self._admin.get(*kept.stored.place)
        if before is not None and before.stored_at == kept.stored.stored_at:
            await self._admin.delete_message(*kept.stored.place)

    async def _stored(
        self, page: Sequence[DiscardedLetter], there: Mapping[str, int]
    ) -> tuple[dict[tuple[str, datetime], int], Back, TransientError | None]:
        """Their new places; why others have none; what has ended it."""
        places = {_place(one): there[_new_id(one)] for one in page if _new_id(one) in there}
        back: Back = {}
        ends: TransientError | None = None
        of: dict[str, list[DiscardedLetter]] = {}
        for one in page:
            if _place(one) not in places:
                of.setdefault(one.stored.stream, []).append(one)
        for queue, some in of.items():
            messages = [again(one.stored, _new_id(one)) for one in some]
            outcomes = await self._sender.send_all(queue, messages)
            for one, message, outcome in zip(some, messages, outcomes, strict=True):
                if isinstance(outcome, Stored):
                    places[_place(one)] = outcome.stream_seq
                elif isinstance(outcome, Refused) and not outcome.heals:
                    said = f"{one.id}: {queue} refused it: {outcome.description}"
                    back[_place(one)] = ConfigError(said)
                elif ends is None and not isinstance(outcome, Held):
                    ends = await self._sender.refusal(queue, message, outcome)
        return places, back, ends


def _is_again(stored: StoredMessage, one: DiscardedLetter) -> bool:
    """Whether what lies there is this letter, and not what somebody else gave its id."""
    return (
        stored.message.subject,
        stored.event_id,
        stored.message.headers.get(h.DLQ_CONSUMER),
    ) == (
        *(one.stored.message.subject, one.event_id),
        one.stored.message.headers.get(h.DLQ_CONSUMER),
    )


async def why_not(store: Store, name: str) -> str:
    """Why there is no discarded letter, or event with one, of this name."""
    found = await changes(store, name, limit=1)
    if not found:
        return f"there is no discarded letter {name}: seaway dlq ls --discarded"
    [last] = found
    did = f"{last.action} {last.noted_at:%Y-%m-%d %H:%M:%S} UTC by {last.by or '?'}"
    kept = ", and is kept no more" if last.action == "discarded" else ""
    return f"{name} was {did}{kept}: seaway dlq log {name}"


async def _whole(store: Store, page: Sequence[DiscardedLetter]) -> Sequence[DiscardedLetter]:
    names = {one.id for one in page}
    return await store.discarded_letters(names, payloads=True, limit=10 * _PAGE)


def _new_id(letter: DiscardedLetter) -> str:
    return f"restored:{letter.id}:{h.format_time(letter.stored.stored_at)}"


def _place(letter: DiscardedLetter) -> tuple[str, datetime]:
    return letter.id, letter.stored.stored_at


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + _PAGE] for at in range(0, len(items), _PAGE))
