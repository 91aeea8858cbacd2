"""What a run of redrives is told, and what may change a letter's event on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from seaway.contracts import Message
from seaway.dead_letters import Letter


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
