"""A piece of a run's letters: read, recognized, made ready, noted, sent, noted.

    there still? ──no──> gone, or sent before
      └ meant to be sent before? ──> was it? ──yes──> its letter is removed
          └ no ──> ready? ──no──> stays
                     └ noted as meant ──> sent, its letter removed ──> noted as sent
                                            └ the server is away ──> the piece again, from the top

Guarantees: nothing is sent that is not noted as meant, where there is a store; each letter has one
outcome, or one for having been sent before and one for what became of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from seaway.contracts import Broker, Message, RunItem
from seaway.dead_letters import DeadLetters, Letter
from seaway.dead_letters import letter as form
from seaway.dead_letters.redriving import Place, Ready, Redriving
from seaway.errors import BrokerUnavailable, NotPermitted, SeawayError, TransientError
from seaway.mending.noting import Meant, RunNotes
from seaway.mending.runs import Outcome, Plan, Refusal
from seaway.mending.watching import place_in, sent_before
from seaway.retry import Backoff

_AWAY = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
_AWAY_SECONDS = 60.0


class Stays(SeawayError):
    """A letter is not to be sent."""


class Pick(NamedTuple):
    """A letter to send; what is in it is read when its turn has come."""

    stream: str
    stream_seq: int
    stored_at: datetime
    event_id: str
    consumer: str

    @property
    def id(self) -> str:
        """The letter's."""
        return f"{self.stream}:{self.stream_seq}"


@dataclass(slots=True)
class _Piece:
    """What became of some letters; ``left``: those that are to be tried again, and why."""

    done: list[Outcome] = field(default_factory=list)
    left: Sequence[Pick] = ()
    why: TransientError | None = None


class Sending:
    """Sends the letters of one run. ``count`` is told what became of them before anybody else."""

    def __init__(
        self,
        broker: Broker,
        letters: DeadLetters,
        plan: Plan,
        notes: RunNotes,
        count: Callable[[Sequence[Outcome]], None],
    ) -> None:
        self._broker = broker
        self._letters = letters
        self._redriving = Redriving(broker)
        self._plan = plan
        self._notes = notes
        self._count = count
        self._unsure: dict[str, Meant] = {}
        """Letters of which it is not known whether they were sent."""
        self.waits = ""
        """Why nothing is sent at the moment."""

    def doubt(self, items: Iterable[RunItem]) -> None:
        """These were meant to be sent, by a process that has died."""
        self._unsure |= {one.item: Meant(place_in(one.detail), self._notes.id) for one in items}

    async def through(self, picks: Sequence[Pick]) -> AsyncGenerator[Outcome]:
        """Each of ``picks``, over an outage of the server where there is a store."""
        now, left, attempt = asyncio.get_running_loop().time, picks, 0
        since = now()
        while left:
            try:
                piece = await self._piece(left)
            except BrokerUnavailable as error:
                piece = _Piece(left=left, why=error)
            self._count(piece.done)
            await self._notes.sent([one for one in piece.done if one.became == "sent"])
            for one in piece.done:
                yield one
            left, why = piece.left, piece.why
            if why is None:
                continue
            away = now() - since > _AWAY_SECONDS
            if self._notes.store is None or away or isinstance(why, NotPermitted):
                raise why
            attempt += 1
            self.waits = str(why)
            await asyncio.sleep(_AWAY.delay(attempt).total_seconds())
            self.waits = ""

    async def forecast(self, picks: Sequence[Pick]) -> list[Outcome]:
        """What would become of each. ``TransientError`` where that cannot be told now."""
        letters, gone = await self._read(picks)
        told = _told(letters, await self._ready(letters))
        for one in told:
            if isinstance(one.error, TransientError):
                raise one.error
        return gone + told

    async def _piece(self, picks: Sequence[Pick]) -> _Piece:
        letters, done = await self._read(picks)
        letters = await self._recognized(letters, done)
        found = await self._ready(letters)
        told = _told(letters, found)
        ready = [one for one in found if isinstance(one, Ready)]
        stays = [one for one in told if one.became == "stays" and not _away(one)]
        meant = await self._meant(ready)
        await self._notes.note([*(one.item for one in (*done, *stays)), *meant])
        if self._notes.store is not None:
            self.doubt(meant)
        results = await self._redriving.send(ready, at=self._plan.at)
        sent = [_sent(one.letter, result) for one, result in zip(ready, results, strict=True)]
        certain = [one for one in sent if not _away(one)]
        await self._notes.note([one.item for one in certain])
        for one in certain:
            self._unsure.pop(one.id, None)
        lacking = {one.id: one.error for one in (*told, *sent) if _away(one)}
        why = next((one for one in lacking.values() if isinstance(one, TransientError)), None)
        left = [one for one in picks if one.id in lacking]
        return _Piece([*done, *stays, *certain], left, why)

    async def _read(self, picks: Sequence[Pick]) -> tuple[list[Letter], list[Outcome]]:
        """The letters, whole, and what became of those that are not there."""
        get = self._broker.admin.get
        found = await asyncio.gather(*(get(one.stream, one.stream_seq) for one in picks))
        letters: list[Letter] = []
        gone: list[Outcome] = []
        for pick, stored in zip(picks, found, strict=True):
            if stored is not None and stored.stored_at == pick.stored_at:
                letters.append(form.read(stored))
                continue
            names = pick.id, pick.event_id, pick.consumer
            if (meant := self._unsure.pop(pick.id, None)) is not None:
                gone.append(Outcome(*names, "sent", f"{meant.before.stream}:0"))
            else:
                gone.append(Outcome(*names, "gone", "somebody else has taken it out"))
        return letters, gone

    async def _recognized(self, letters: list[Letter], done: list[Outcome]) -> list[Letter]:
        """Those that were not sent before. The others are taken out now, and ``done``."""
        if (store := self._notes.store) is None:
            return letters
        noted = await self._notes.meant_elsewhere() | self._unsure
        unsure = {one.id: (one, noted[one.id].before) for one in letters if one.id in noted}
        if not unsure:
            return letters
        fates = await sent_before(self._broker, self._letters, store, unsure, to=self._plan.to)
        for name, fate in fates.items():
            letter, before = unsure[name]
            await self._redriving.remove(letter)
            lies = fate.sent.place if fate.became == "sent" else Place(before.stream, 0)
            outcome = _sent(letter, lies)
            done.append(outcome)
            if fate.became != "sent":
                done.append(Outcome(*_names(letter), fate.became, fate.detail, letter=letter))
            if (run := noted[name].run) != self._notes.id:
                await store.note_items(run, [outcome.item])
        return [one for one in letters if one.id not in fates]

    async def _ready(self, letters: Sequence[Letter]) -> list[Ready | SeawayError]:
        change = None if self._plan.transform is None else self._changed
        return await self._redriving.ready(
            letters, payload=self._plan.payload, to=self._plan.to, change=change
        )

    async def _changed(self, letter: Letter, event: Message) -> Message:
        transform = self._plan.transform
        assert transform is not None
        try:
            changed = await transform(letter, event)
        except Exception as error:
            known = isinstance(error, SeawayError)
            said = str(error) if known else f"{type(error).__name__}: {error}"
            raise Stays(f"{letter.id}: {transform.name}: {said}") from error
        if isinstance(changed, Refusal):
            raise Stays(f"{letter.id}: {transform.name}: {changed.reason}")
        return changed

    async def _meant(self, ready: Sequence[Ready]) -> list[RunItem]:
        """What is noted before they are sent: the end of their stream."""
        if self._notes.store is None:
            return []
        ends = {}
        for stream in {one.stream for one in ready}:
            info = await self._broker.admin.stream(stream)
            ends[stream] = f"{stream}:{0 if info is None else info.last_seq}"
        letters = [(one.letter, ends[one.stream]) for one in ready]
        return [
            RunItem(letter.id, "sending", letter.event_id, letter.consumer, end)
            for letter, end in letters
        ]


def _names(letter: Letter) -> tuple[str, str, str]:
    return letter.id, letter.event_id, letter.consumer


def _told(letters: Sequence[Letter], found: Sequence[Ready | SeawayError]) -> list[Outcome]:
    """What would become of each."""
    return [
        Outcome(*_names(letter), "stays", str(one), one, letter)
        if isinstance(one, SeawayError)
        else Outcome(*_names(letter), "ready", letter=letter)
        for letter, one in zip(letters, found, strict=True)
    ]


def _sent(letter: Letter, result: Place | SeawayError) -> Outcome:
    if isinstance(result, SeawayError):
        return Outcome(*_names(letter), "stays", str(result), result, letter)
    return Outcome(*_names(letter), "sent", f"{result.stream}:{result.stream_seq}", letter=letter)


def _away(one: Outcome) -> bool:
    return isinstance(one.error, TransientError)
