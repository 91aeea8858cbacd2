"""What became of letters that were redriven, or may have been.

A redrive only goes forward: it lies in the stream of redrives until its consumer has acknowledged
it, and before that its effect is in the inbox or its letter in the queue. So whoever looks in that
order misses none. All of it is looking only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from seaway import headers as h
from seaway.contracts import Broker, InboxStore, RunItem
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter, redrive_id
from seaway.dead_letters.redriving import Place, Target
from seaway.mending.runs import Became
from seaway.naming import (
    dlq_stream,
    later_filter,
    later_subject,
    redrive_filter,
    stream_context,
)

_SINGLY = 100
"""So few that wait are asked for one by one."""
_CHUNK = 500


class Sent(NamedTuple):
    """A letter that was redriven, and where that lies or lay; sequence 0: that is not known."""

    id: str
    event_id: str
    consumer: str
    place: Place

    @property
    def effect(self) -> tuple[str, str]:
        """Of whom its effect is, and of what."""
        return self.consumer, self.event_id

    @property
    def twin(self) -> tuple[str, str]:
        """Its stream of redrives and who takes it from there."""
        return self.place.stream, self.consumer


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one. ``detail``: the letter that it is again, and why."""

    sent: Sent
    became: Became
    detail: str = ""


def sent_of(item: RunItem) -> Sent:
    """What is noted of one that was sent."""
    return Sent(item.item, item.event_id, item.consumer, place_in(item.detail))


def place_in(detail: str) -> Place:
    """A place as it is noted: ``SEA_REDRIVE:17``."""
    stream, _, stream_seq = detail.rpartition(":")
    return Place(stream, int(stream_seq))


class Watch:
    """Looks what becomes of the redrives that are ``open``, by letter.

    ``since``: of each queue the last letter before the first of them was sent.
    """

    def __init__(
        self, broker: Broker, letters: DeadLetters, store: InboxStore, since: Mapping[str, int]
    ) -> None:
        self._admin = broker.admin
        self._letters = letters
        self._store = store
        self._seen: dict[str, int] = dict(since)
        self._again: dict[str, Letter] = {}
        self.open: dict[str, Sent] = {}

    def expect(self, sent: Sent) -> None:
        """Look for this one too."""
        self.open[sent.id] = sent

    async def look(self) -> Sequence[Fate]:
        """Those of which it is known by now what became of them; they are not ``open`` any more."""
        if not self.open:
            return ()
        effects = await effects_of(self._store, self.open.values())
        past = await self._past([one for one in self.open.values() if one.effect not in effects])
        await self._read_queues()
        past -= await self._put_off(past)
        # What is past had its effect before, if it has one.
        effects |= await effects_of(self._store, [self.open[name] for name in past])
        fates = []
        for name, sent in list(self.open.items()):
            again = self._again.pop(name, None)
            if again is not None:
                became: Became = "waits" if again.waits else "failed"
                fates.append(Fate(sent, became, told(again)))
            elif sent.effect in effects:
                fates.append(Fate(sent, "effect"))
            elif name in past:
                fates.append(Fate(sent, "settled"))
            else:
                continue
            del self.open[name]
        return fates

    async def idle(self) -> Sequence[str]:
        """The consumers of those that are ``open`` whose redrives nobody takes at the moment."""
        idle = []
        for stream, consumer in sorted({one.twin for one in self.open.values()}):
            info = await self._admin.consumer(stream, consumer)
            if info is None or (not info.num_waiting and not info.num_ack_pending):
                idle.append(consumer)
        return idle

    async def _past(self, open_: Sequence[Sent]) -> set[str]:
        """Those that their stream does not hold any more, as far as that is told quickly. What its
        consumer has been given for the last time is there until the sweeper has made its letter."""
        past: set[str] = set()
        asked: list[Sent] = []
        twins: dict[tuple[str, str], list[Sent]] = defaultdict(list)
        for sent in open_:
            twins[sent.twin].append(sent)
        for (stream, consumer), some in twins.items():
            info = await self._admin.consumer(stream, consumer)
            floor = 0 if info is None else info.ack_floor
            lost = [one for one in some if not one.place.stream_seq]
            if lost:
                there = await self._letters.redriven(stream_context(stream), consumer)
                past |= {one.id for one in lost if one.event_id not in there}
            placed = [one for one in some if one.place.stream_seq]
            few = len(placed) <= _SINGLY
            asked += [one for one in placed if few or one.place.stream_seq <= floor]
        for first in range(0, len(asked), _CHUNK):
            some = asked[first : first + _CHUNK]
            found = await asyncio.gather(*(self._admin.get(*one.place) for one in some))
            past |= {one.id for one, there in zip(some, found, strict=True) if there is None}
        return past

    async def _put_off(self, past: Iterable[str]) -> set[str]:
        """Those of them that their handlers have put off: they come again, in another place."""
        twins: dict[tuple[str, str], list[Sent]] = defaultdict(list)
        for name in past:
            twins[self.open[name].twin].append(self.open[name])
        again: set[str] = set()
        for (stream, consumer), some in twins.items():
            context = stream_context(stream)
            info = await self._admin.stream(stream, subjects=later_filter(context, consumer))
            waiting = info.subject_messages if info is not None else ()
            for sent in some:
                if waiting and later_subject(context, consumer, sent.event_id) in waiting:
                    self.open[sent.id] = sent._replace(place=Place(stream, 0))
                    again.add(sent.id)
        return again

    async def _read_queues(self) -> None:
        by_place = {one.place: one for one in self.open.values()}
        by_event = {
            (one.consumer, one.event_id): one
            for one in self.open.values()
            if not one.place.stream_seq
        }
        for context in {stream_context(one.place.stream) for one in self.open.values()}:
            queue = dlq_stream(context)
            async for letter in self._letters.redriven_letters(context, self._seen.get(queue, 0)):
                self._seen[queue] = letter.stored.stream_seq
                sent = by_place.get(Place(*letter.place))
                sent = sent or by_event.get((letter.consumer, letter.event_id))
                if sent is not None:
                    self._again[sent.id] = letter


def told(again: Letter) -> str:
    """Of a letter that is one again: which, and why."""
    return f"{again.id}: {again.error_type.rpartition('.')[2] or again.reason}: {again.error}"


async def effects_of(store: InboxStore, sent: Iterable[Sent]) -> set[tuple[str, str]]:
    """Consumer and event id of those that have their effect in this inbox."""
    by_consumer: dict[str, list[str]] = defaultdict(list)
    for one in sent:
        by_consumer[one.consumer].append(one.event_id)
    found: set[tuple[str, str]] = set()
    for consumer, ids in by_consumer.items():
        for first in range(0, len(ids), _CHUNK):
            done = await store.claimed(consumer, ids[first : first + _CHUNK])
            found |= {(consumer, event_id) for event_id in done}
    return found


async def sent_before(
    broker: Broker,
    letters: DeadLetters,
    store: InboxStore,
    unsure: Mapping[str, tuple[Letter, Place]],
    *,
    to: Target,
) -> dict[str, Fate]:
    """Of letters that are in the queue still, by id, those whose redrive was stored nevertheless.

    With each, what lay last in its stream before it was to be sent. Of a consumer without an inbox
    here, a redrive that has been acknowledged is not recognized.
    """
    found: dict[str, Fate] = {}

    def note(one: Letter, became: Became, place: Place, detail: str = "") -> None:
        found.setdefault(
            one.id, Fate(Sent(one.id, one.event_id, one.consumer, place), became, detail)
        )

    for stream in {before.stream for _, before in unsure.values()}:
        some = [(one, before) for one, before in unsure.values() if before.stream == stream]
        await _on_the_way(broker, letters, stream, some, to, note)
    if to == "all":
        return found
    for context in {stream_context(one.stored.stream) for one, _ in unsure.values()}:
        queue = dlq_stream(context)
        mine = [one for one, _ in unsure.values() if one.stored.stream == queue]
        known = {(one.consumer, one.event_id): one for one in mine}
        first = min(one.stored.stream_seq for one in mine)
        async for again in letters.redriven_letters(context, first):
            one = known.get((again.consumer, again.event_id))
            if one is not None and again.redrives > one.redrives:
                note(one, "waits" if again.waits else "failed", Place(*again.place), told(again))
    sent = [Sent(one.id, one.event_id, one.consumer, at) for one, at in unsure.values()]
    effects = await effects_of(store, sent)
    for one, before in unsure.values():
        if (one.consumer, one.event_id) in effects:
            note(one, "effect", before)
    return found


async def _on_the_way(
    broker: Broker,
    letters: DeadLetters,
    stream: str,
    unsure: Sequence[tuple[Letter, Place]],
    to: Target,
    note: Callable[[Letter, Became, Place], None],
) -> None:
    """Those that lie in ``stream``."""
    first = min(before.stream_seq for _, before in unsure) + 1
    info = await broker.admin.stream(stream)
    if info is None or info.last_seq < first:
        return
    ids = {redrive_id(one, to_all=to == "all"): one for one, _ in unsure}
    context = stream_context(stream)
    filters = (
        {one.subject for one, _ in unsure}
        if to == "all"
        else {redrive_filter(context, one.consumer) for one, _ in unsure}
    )
    reading = broker.admin.read(
        stream,
        filter_subjects=sorted(filters),
        from_seq=first,
        headers_only=True,
        reader=letters.reader,
    )
    async with aclosing(reading):
        async for stored in reading:
            one = _begins(stored.message.headers.get(h.MSG_ID, ""), ids)
            if one is not None and one.event_id == stored.event_id:
                note(one, "sent", Place(*stored.place))


def _begins(msg_id: str, ids: Mapping[str, Letter]) -> Letter | None:
    """Of which letter a message id is, whichever its edition and number."""
    while msg_id and msg_id not in ids:
        msg_id = msg_id.rpartition(":")[0]
    return ids.get(msg_id)
