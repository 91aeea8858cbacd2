"""Dead letters for the admin: asked of the server, in bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from seaway.brokers import jetstream
from seaway.contracts import Message
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.django.configuration import configured
from seaway.errors import BrokerUnavailable, ConfigError, NotFound
from seaway.naming import dlq_stream

T = TypeVar("T")

SECONDS = 5.0
MOST = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """A letter with its event; ``gone``: why there is none."""

    letter: Letter
    event: Message | None = field(repr=False)
    gone: str = ""


def oldest(selection: Selection) -> Sequence[Letter]:
    """The ``MOST`` oldest that are selected, without payloads.

    Raises ``SeawayError``: ``BrokerUnavailable`` where the server does not answer in time.
    """
    return _asked(lambda queue: queue.list(selection, limit=MOST, payloads=False))


def one(letter_id: str) -> Shown:
    """One letter; ``NotFound`` where there is none. Otherwise as ``oldest``."""

    async def read(queue: DeadLetters) -> Shown:
        letter = await queue.get(letter_id)
        try:
            return Shown(letter, await queue.event(letter))
        except (NotFound, ConfigError) as error:
            return Shown(letter, None, str(error))

    return _asked(read)


def _asked(question: Callable[[DeadLetters], Awaitable[T]]) -> T:
    settings = configured()

    async def ask() -> T:
        try:
            async with asyncio.timeout(SECONDS):
                broker = await jetstream.connect(settings.nats)
                try:
                    queues = [dlq_stream(stream.context) for stream in settings.streams]
                    return await question(DeadLetters(broker, queues=queues or None))
                finally:
                    with suppress(TimeoutError):
                        await broker.close()
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"{settings.nats.redacted_url} has not answered within {SECONDS:g} s"
            ) from error

    return asyncio.run(ask())
