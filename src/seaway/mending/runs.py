"""What a run of redrives is told, what it says of each letter, and what is noted of it. Pure.

    a letter ──> stays                          (why: it cannot be sent, or somebody refused)
             ──> gone                           (somebody else has taken it out)
             ──> sending ──> sent ──> effect    the consumer's inbox has it
                                  ──> settled   acknowledged: its consumer has no inbox here
                                  ──> waits     back in the queue, behind another of its key
                                  ──> failed    back in the queue, with an error

``sending`` is noted before anything is sent, so that whoever goes on after a crash knows of which
letters he has to ask what became of them. What follows ``sent`` is noted by runs that wait for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from seaway.contracts import Message, RunItem
from seaway.dead_letters import Letter, Selection
from seaway.dead_letters.redriving import Target
from seaway.errors import ConfigError, SeawayError
from seaway.headers import format_time, parse_time

KIND = "redrive"
"""Of ``contracts.Run``."""

Became: TypeAlias = Literal[
    "ready", "stays", "gone", "sent", "effect", "settled", "waits", "failed"
]
"""``ready``: it would be sent."""

FATES: tuple[Became, ...] = ("effect", "settled", "waits", "failed")
"""What becomes of what was sent."""

GROWS = 2
"""How many times the last one each batch of a watched run is."""
LARGEST = 1000
"""Letters of a batch whose outcomes are waited for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A letter's event is not to be sent: the letter stays, for this ``reason``."""

    reason: str


Changed: TypeAlias = Message | Refusal


class Transform(Protocol):
    """What a letter's event is sent as, in its place; or why it is not to be sent.

    Called once a letter, with the letter and its whole event, also of a letter by reference: its
    own subject, payload and headers. Of what it gives, payload and headers are sent; subject and
    event id stay the event's. A ``SeawayError`` that it raises is a refusal too, and any other
    exception as well, which is named in it. It must give the same for the same letter: so what is
    sent twice is stored once.
    """

    @property
    def name(self) -> str:
        """What it is known by in a run: ``module:function``. A run of another one is another."""
        ...

    async def __call__(self, letter: Letter, event: Message) -> Changed: ...


@runtime_checkable
class Telling(Protocol):
    """A transform that says what it did."""

    def told(self, letters: Sequence[str]) -> Mapping[str, Any]:
        """Of the letters of these ids, for the log: JSON without values of payloads. Forgotten by
        that."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to redrive, and how.

    ``rate``: letters a second at the most. ``canary``: send so many, wait until it is known what
    became of each, and go on in batches that double, up to 1,000, only while they succeed.
    ``max_failures``: end once more than so many of those sent have come back as letters; alone, it
    makes a run wait for outcomes too, in batches of 1,000; with ``canary`` it is 0 by default.
    ``patience``: how long such a run waits while nothing becomes known. ``at``: the server sends
    them then, by its own clock, to their consumer; that cannot be waited for. ``command``: what was
    asked for in the words of whoever did; a plan of the same words goes on with what another one
    left, whatever its pace. By default the selection is that. ``by`` (default: this process' user)
    redrives.
    """

    selection: Selection = field(default_factory=Selection)
    to: Target = "consumer"
    payload: bytes | None = None
    transform: Transform | None = None
    rate: float | None = None
    canary: int | None = None
    max_failures: int | None = None
    patience: timedelta = timedelta(minutes=5)
    at: datetime | None = None
    command: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        for name, least in (("canary", 1), ("max_failures", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}: at least {least}")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"a rate of {self.rate} letters a second sends nothing")
        if self.watched and self.to == "all":
            raise ConfigError("what becomes of what goes to all consumers cannot be waited for")
        if self.at is not None and (self.watched or self.to == "all"):
            what = "waited for" if self.watched else "sent to all consumers"
            raise ConfigError(f"what is redriven at a time cannot be {what}")

    @property
    def watched(self) -> bool:
        """Whether it is waited for what became of those sent."""
        return self.canary is not None or self.max_failures is not None

    @property
    def noted(self) -> dict[str, Any]:
        """As it stands in ``contracts.Run.plan``, but for the bounds. ``ConfigError`` never."""
        chosen = self.selection
        return {
            "what": self.command or _text(chosen),
            "to": self.to,
            "payload": None if self.payload is None else _hash(self.payload),
            "transform": None if self.transform is None else self.transform.name,
            "since": None if chosen.since is None else format_time(chosen.since),
            "until": None if chosen.until is None else format_time(chosen.until),
            **({} if self.at is None else {"at": format_time(self.at)}),
        }

    def same(self, noted: Mapping[str, Any]) -> bool:
        """Whether a run with what is ``noted`` of its plan did the same."""
        names = ("what", "to", "payload", "transform", "at")
        return all(noted.get(name) == self.noted.get(name) for name in names)

    def selected(self, noted: Mapping[str, Any]) -> Selection:
        """What such a run selects: an age of two hours is counted back from its begin."""
        since, until = noted.get("since"), noted.get("until")
        return replace(
            self.selection,
            since=None if since is None else parse_time(since),
            until=None if until is None else parse_time(until),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter. ``detail``: why, or where it lies now; ``error``: that as it was
    raised. ``letter``: where it was read."""

    id: str
    event_id: str
    consumer: str
    became: Became
    detail: str = ""
    error: SeawayError | None = None
    letter: Letter | None = None

    @property
    def item(self) -> RunItem:
        """As it is noted."""
        return RunItem(self.id, self.became, self.event_id, self.consumer, self.detail)


def _text(selection: Selection) -> str:
    """A selection in one line, the same for the same one."""
    said = {name: value for name, value in asdict(selection).items() if value not in (None, ())}
    return json.dumps(said, default=str, sort_keys=True) if said else "every letter"


def _hash(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
