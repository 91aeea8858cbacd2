"""Letters tried on the handlers that failed: which of them would succeed now.

    letter ──its event, changed where a transform says so──> the consumer's trials ──> rolled back

Owns: what each comes to, and which come to the same. Guarantees: nothing is sent, acknowledged or
removed, and the database keeps nothing of it; what a handler does beside its transaction (a mail, a
request) happens, and ``Delivery.tried`` tells it so. One that cannot be tried holds up no other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from seaway import logs
from seaway.consumer import Consumer
from seaway.consumer.trials import Trials, Tried
from seaway.dead_letters import DeadLetters, Letter
from seaway.errors import ConfigError
from seaway.mending.application import Application
from seaway.mending.checking import as_redriven
from seaway.mending.previewing import MOST, mended_all
from seaway.mending.runs import Transform
from seaway.mending.transforming import Mended, Stays

ComesTo: TypeAlias = Literal[
    "succeeds", "already", "poison", "undecodable", "fails", "ignored", "waits", "untried", "stays"
]
"""``succeeds``: its handler took it, and nothing kept it from being committed. ``already``: its
effects are there, and a redrive does nothing. ``poison``, ``undecodable``: it would be a letter
again at once; ``fails``: after as many deliveries as it has. ``ignored``: no handler takes it.
``waits``: an earlier event of its key has to be handled first. ``untried``: its consumer cannot be
tried here. ``stays``: a transform left it, or it has left its stream."""


_IDS = 5


@dataclass(frozen=True, slots=True)
class TriedLetter:
    """What one letter came to. ``reason``: in one line; ``place``: where its error came from, in
    the user's own code; ``took``: its handler's seconds."""

    letter: Letter
    comes_to: ComesTo
    reason: str = ""
    kind: str = ""
    """The error's type, by which alike ones are told together; else the reason."""
    place: str = ""
    took: float = 0.0
    mended: Mended | None = None


@dataclass(slots=True)
class SameOutcome:
    """Letters of one consumer that came to the same."""

    comes_to: ComesTo
    consumer: str
    subject: str
    kind: str = ""
    place: str = ""
    reason: str = ""
    """That of the first."""
    letters: int = 0
    ids: list[str] = field(default_factory=list)
    """The first few."""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in type(self).__slots__}


class Outcomes:
    """What letters came to, grouped."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], SameOutcome] = {}

    def take(self, one: TriedLetter) -> None:
        """One more."""
        letter = one.letter
        found = SameOutcome(
            one.comes_to, letter.consumer, letter.subject, one.kind, one.place, one.reason
        )
        key = (found.comes_to, found.consumer, found.subject, found.kind, found.place)
        if key not in self._groups and len(self._groups) >= MOST:
            found = SameOutcome(one.comes_to, "", "", "others")
            key = (found.comes_to, found.consumer, found.subject, found.kind, found.place)
        group = self._groups.setdefault(key, found)
        group.letters += 1
        if len(group.ids) < _IDS:
            group.ids.append(letter.id)

    @property
    def groups(self) -> list[SameOutcome]:
        """Those that would succeed first, then the largest."""
        return sorted(
            self._groups.values(), key=lambda one: (one.comes_to != "succeeds", -one.letters)
        )

    def count(self, *wanted: ComesTo) -> int:
        """How many came to one of these."""
        return sum(one.letters for one in self._groups.values() if one.comes_to in wanted)


async def tried_all(
    queue: DeadLetters,
    letters: Sequence[Letter],
    app: Application,
    *,
    transform: Transform | None = None,
    within: timedelta | None = None,
) -> AsyncGenerator[TriedLetter]:
    """Try each of ``letters`` on the handlers of ``app``, in this order, one at a time.

    ``within``: how long a handler may run; ``None``: its deadline. ``StoreUnavailable`` and
    ``BrokerUnavailable`` end it, and so does a handler that ends its transaction itself
    (``ConfigError``): what that one did is committed.
    """
    opened: dict[str, Trials | ConfigError] = {}
    inbox = await app.open_store()
    async with AsyncExitStack() as stack:
        mended = await stack.enter_async_context(aclosing(mended_all(queue, letters, transform)))
        async for one in mended:
            letter = one.letter
            if one.after is None:
                yield _stays(one)
                continue
            if letter.waits:
                yield TriedLetter(letter, "waits", _WAITS, mended=one)
                continue
            name = letter.consumer
            if name not in opened:
                try:
                    opened[name] = await stack.enter_async_context(app.trials(name, within=within))
                except ConfigError as error:
                    opened[name] = error
            found = opened[name]
            if isinstance(found, ConfigError):
                yield TriedLetter(letter, "untried", str(found), str(found), mended=one)
            elif await inbox.claimed(name, [letter.event_id]):
                yield TriedLetter(letter, "already", _ALREADY, mended=one)
            else:
                tried = await found(as_redriven(letter, one.after))
                yield _told(one, tried, _home(app.consumers[name], letter))


_WAITS = "it waits behind an earlier event of its key"
_ALREADY = "its effects are there: a redrive does nothing"
_IGNORED = "no handler takes it"


def _stays(mended: Mended) -> TriedLetter:
    stays = mended.stays
    assert stays is not None
    said = (isinstance(stays, Stays) and stays.said) or stays.reason
    return TriedLetter(mended.letter, "stays", said, stays.reason, mended=mended)


def _home(consumer: Consumer, letter: Letter) -> str:
    """The module of the handler that takes it."""
    found = consumer.handlers.find(letter.subject)
    return "" if found is None else str(getattr(found.code, "__module__", ""))


def _told(mended: Mended, tried: Tried, home: str) -> TriedLetter:
    letter, error = mended.letter, tried.error
    if tried.verdict == "effect":
        return TriedLetter(letter, "succeeds", took=tried.took, mended=mended)
    if tried.verdict == "nothing":
        return TriedLetter(letter, "ignored", _IGNORED, mended=mended)
    assert error is not None
    file, line = logs.innermost(error, home)
    comes_to: ComesTo = "fails"
    if tried.verdict == "letter" and tried.reason in ("poison", "undecodable"):
        comes_to = tried.reason
    kind = type(error).__name__
    if comes_to == "undecodable":
        kind, file = str(error), ""  # It names the field, and no value.
    place = f"{file}:{line}" if file else ""
    return TriedLetter(letter, comes_to, tried.said, kind, place, tried.took, mended)
