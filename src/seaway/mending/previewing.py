"""Many letters' changes, before anything is sent: grouped by how they change, one sample each.

Owns: which letters change alike. Guarantees: it reads queues and streams, and sends, removes and
notes nothing; its memory is bounded by how many ways of changing there are, and by ``MOST``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from seaway.contracts import Message
from seaway.dead_letters import DeadLetters, Letter
from seaway.dead_letters.redriving import Target
from seaway.errors import SeawayError, TransientError
from seaway.mending.differences import ABSENT, differences, form_of
from seaway.mending.runs import Refusal, Transform
from seaway.mending.transforming import How, Mended, Stays, Transforming

Becomes: TypeAlias = Literal["changed", "unchanged", "gone"] | How
"""``changed``, ``unchanged``: it would be sent so. All others stay; ``gone``: nothing can be sent
of it, since its payload has left the stream or it is no letter of Seaway's."""

MOST = 1000
"""Groups that are kept apart; what comes after them is one group of its kind."""
_IDS = 5
_AHEAD = 16
"""How many letters' events are fetched at a time."""


@dataclass(slots=True)
class Alike:
    """Letters of events of one ``subject`` that change in one way, or stay for one ``reason``."""

    becomes: Becomes
    subject: str
    form: tuple[str, ...] = ()
    reason: str = ""
    letters: int = 0
    sample: Mended | None = None
    """The first of them."""
    ids: list[str] = field(default_factory=list)
    """The first few."""

    @property
    def sent(self) -> bool:
        """Whether they would be sent."""
        return self.becomes in ("changed", "unchanged")

    def told(self) -> dict[str, Any]:
        """For JSON; with the values of the sample's differences."""
        sample = self.sample
        return {
            "becomes": self.becomes,
            "subject": self.subject,
            "letters": self.letters,
            "changes": list(self.form),
            "reason": self.reason,
            "ids": self.ids,
            "sample": None if sample is None else told_of(sample),
        }


class Preview:
    """What would become of letters. ``groups``: most letters first, those that stay at the end."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], Alike] = {}

    def take(self, mended: Mended) -> None:
        """One more."""
        subject = mended.letter.subject
        becomes, reason, form = becomes_of(mended), "", form_of(mended.differences)
        if mended.stays is not None:
            reason, form = mended.stays.reason, ()
        key = becomes, subject, form, reason
        if key not in self._groups and len(self._groups) >= MOST:
            key = becomes, "", (), "in other ways"
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Alike(becomes, *key[1:], sample=mended)
        group.letters += 1
        if len(group.ids) < _IDS:
            group.ids.append(mended.letter.id)

    @property
    def groups(self) -> list[Alike]:
        """Those that would be sent first, the largest first."""
        return sorted(self._groups.values(), key=lambda one: (not one.sent, -one.letters))

    @property
    def sent(self) -> int:
        """How many would be sent."""
        return sum(one.letters for one in self._groups.values() if one.sent)

    @property
    def stay(self) -> int:
        """How many would stay."""
        return sum(one.letters for one in self._groups.values() if not one.sent)


def becomes_of(mended: Mended) -> Becomes:
    """What one letter's event becomes."""
    if mended.after is None:
        return mended.stays.how if isinstance(mended.stays, Stays) else "gone"
    return "changed" if mended.differences else "unchanged"


def told_of(mended: Mended) -> dict[str, Any]:
    """One letter's differences, for JSON: bytes as text, what is not there left out."""
    told = []
    for one in mended.differences:
        values = {"before": one.before, "after": one.after}
        told.append(
            {"what": one.name}
            | {
                name: value.decode("utf-8", "backslashreplace")
                if isinstance(value, bytes)
                else value
                for name, value in values.items()
                if value is not ABSENT
            }
        )
    said = mended.stays.said if isinstance(mended.stays, Stays) else ""
    return {"id": mended.letter.id, "event_id": mended.letter.event_id, "differences": told} | (
        {"said": said} if said else {}
    )


async def mended_all(
    queue: DeadLetters,
    letters: Sequence[Letter],
    transform: Transform | None,
    *,
    to: Target = "consumer",
) -> AsyncGenerator[Mended]:
    """What becomes of each of ``letters``, in this order; ``transform`` ``None``: as they are.

    One that cannot be fetched stays and holds up no other; ``TransientError`` ends it.
    """
    async with aclosing(_events(queue, letters, to)) as events:
        async for letter, event in events:
            if isinstance(event, Refusal):
                yield Mended(letter, None, None, (), event)
            elif isinstance(transform, Transforming):
                yield await transform.mend(letter, event)
            elif transform is None:
                yield Mended(letter, event, event)
            else:
                after = await transform(letter, event)
                if isinstance(after, Refusal):
                    yield Mended(letter, event, None, (), after)
                else:
                    yield Mended(letter, event, after, tuple(differences(event, after)))


async def _events(
    queue: DeadLetters, letters: Sequence[Letter], to: Target
) -> AsyncGenerator[tuple[Letter, Message | Refusal]]:
    """Each letter's event, some fetched ahead."""
    ahead: deque[tuple[Letter, asyncio.Task[Message | Refusal]]] = deque()
    left = iter(letters)
    try:
        while True:
            while len(ahead) < _AHEAD and (letter := next(left, None)) is not None:
                ahead.append((letter, asyncio.create_task(_event(queue, letter, to))))
            if not ahead:
                return
            letter, fetching = ahead[0]
            event = await fetching
            ahead.popleft()
            yield letter, event
    finally:
        for _, fetching in ahead:
            fetching.cancel()
        await asyncio.gather(*(fetching for _, fetching in ahead), return_exceptions=True)


async def _event(queue: DeadLetters, letter: Letter, to: Target) -> Message | Refusal:
    if not letter.goes(to_all=to == "all"):
        return Refusal(letter.problem)
    try:
        return await queue.to_send(letter, to=to)
    except TransientError:
        raise
    except SeawayError as error:
        return Refusal(str(error))
