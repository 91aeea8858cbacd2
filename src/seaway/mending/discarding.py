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
from seaway.contracts import Broker, BrokerAdmin, DiscardedLetter, Refused, Store, Stored
from seaway.dead_letters import Letter
from seaway.dead_letters.letter import again, read
from seaway.dead_letters.sending import Sender
from seaway.errors import BrokerUnavailable, ConfigError, NotFound, SeawayError, TransientError
from seaway.inbox.letters import note_discarded, take_back_discarded
from seaway.mending.changes import Moved, changes, note_changes
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
    for page in _pages(letters):
        holding: Holding = set()
        until = None
        if keeping is not None:
            holding = await _holding(keeping.store, page)
            if holding and not looked:
                looked = True
                behind = Behind(one for one in await waiting() if one.id not in going)
            until = await _keep(admin, page, holding, behind, keeping)
        removed: list[Letter] = []
        try:
            for letter in page:
                if await admin.delete_message(*letter.stored.place):
                    removed.append(letter)
                    yield Discarded(letter, True, until, behind(letter))
                else:
                    yield Discarded(letter, False)
        finally:
            if keeping is not None:
                await note_changes(
                    *(keeping.store, "discarded", removed),
                    by=keeping.by,
                    why=keeping.why,
                    for_good=until is None,
                )


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
    there = await bringing.there(letters)
    for page in _pages(letters):
        done: list[Moved] = []
        whole = {_place(one): one for one in await _whole(store, page)}
        try:
            for letter in page:
                late = max(0, letter.behind - behind(read(letter.stored, bare=True)))
                try:
                    if (kept := whole.get(_place(letter))) is None:
                        raise NotFound(await why_not(store, letter.id))
                    now = await bringing.back(kept, there)
                except TransientError:
                    raise
                except SeawayError as error:
                    yield Restored(letter, error=error)
                else:
                    done.append(Moved(now, letter.event_id, letter.consumer, letter.id))
                    yield Restored(letter, now, late)
        finally:
            await note_changes(store, "restored", done, by=by)


class _Bringing:
    """Brings letters back."""

    def __init__(self, broker: Broker, store: Store) -> None:
        self._admin = broker.admin
        self._sender = Sender(broker)
        self._store = store

    async def there(self, letters: Sequence[DiscardedLetter]) -> dict[str, int]:
        """Which of them lie in their queues already, brought back by somebody who died half way:
        their new ids, and where."""
        wanted, found = {_new_id(one) for one in letters}, dict[str, int]()
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
                    if (name := stored.message.headers.get(h.MSG_ID, "")) in wanted:
                        found[name] = stored.stream_seq
        return found

    async def back(self, kept: DiscardedLetter, there: Mapping[str, int]) -> str:
        """Bring one back, unless it is ``there``; its id."""
        store, letter, queue = self._store, read(kept.stored), kept.stored.stream
        before = await self._admin.get(*kept.stored.place)
        if before is not None and before.stored_at == kept.stored.stored_at:
            # Who discarded it has died, or is about to take it out.
            await self._admin.delete_message(*kept.stored.place)
        if kept.holds:  # Nobody redrives or discards what has no row yet.
            place = 0 if kind_of(letter.stream) == "redrive" else letter.stream_seq
            row = letter.consumer, letter.event_id, letter.key
            async with store.transaction() as tx:
                await tx.park(*row, place=place, failed=not letter.waits)
        stream_seq = there.get(_new_id(kept)) or await self._store_again(kept)
        if kept.holds:
            async with store.transaction() as tx:
                await tx.set_letter(letter.consumer, letter.event_id, stream_seq)
        if not letter.problem:
            await take_back_discarded(store, letter.consumer, letter)
        await store.take_discarded(kept)
        return f"{queue}:{stream_seq}"

    async def _store_again(self, kept: DiscardedLetter) -> int:
        queue, message = kept.stored.stream, again(kept.stored, _new_id(kept))
        outcome = await self._sender.send(queue, message)
        if isinstance(outcome, Stored):
            return outcome.stream_seq
        if isinstance(outcome, Refused) and not outcome.heals:
            raise ConfigError(f"{kept.id}: {queue} refused it: {outcome.description}")
        raise await self._sender.refusal(queue, message, outcome)


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
