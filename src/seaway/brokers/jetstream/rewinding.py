"""Having a durable give out again what is on its way, over ``CONSUMER.RESET`` (ADR 0014).

Owns: when that may be asked for, and what a refusal means. Guarantees: nobody else's deliveries are
given out twice; a server that cannot do it is not asked. Source: nats-server 2.14 and newer. An
older one answers nothing, and so does one for a durable that it does not know.
"""

from __future__ import annotations

import asyncio
from collections import deque

from seaway.brokers.jetstream.admin import JetStreamAdmin
from seaway.brokers.jetstream.api import Api
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.pin import Pin
from seaway.contracts import REWINDS_SINCE, ConsumerInfo, Incoming
from seaway.errors import ApiError, BrokerUnavailable, CannotRewind, NotFound, NotPermitted

_QUIET_SECONDS = 0.25
"""How long nobody may be given anything: a process that handles slower than that is taken for
gone. Then it and we have the same in hand, and the inbox lets one of us pass."""
_MOMENT_SECONDS = 0.05
"""Within which a process that is idle asks anew when its pull has expired."""


class Rewinder:
    """For one pull. ``pin``: its part in an exclusive durable."""

    def __init__(self, connection: Connection, stream: str, durable: str, pin: Pin | None) -> None:
        self._connection = connection
        self._api = Api(connection)
        self._stream, self._durable, self._pin = stream, durable, pin
        self._unanswered = 0

    async def rewind(self, arrived: deque[Incoming]) -> int | None:
        """See ``contracts.Subscription.rewind``. Empties ``arrived`` where it comes again."""
        server = self._connection.server_info()
        if () < server.release < REWINDS_SINCE and not server.elsewhere:
            raise CannotRewind(
                f"nats-server {server.version} cannot do it: upgrade to 2.14 or newer"
            )
        info = await self._info()
        if self._others_have(info):
            return None
        if info.num_ack_pending <= len(arrived):
            return 0  # Nothing is on its way but what is here.
        if self._pin is None:
            # Who works off a backlog never waits for messages, but is given some.
            await asyncio.sleep(max(_MOMENT_SECONDS, _QUIET_SECONDS - _quiet_seconds(info)))
            later = await self._info()
            if self._others_have(later) or later.consumer_seq != info.consumer_seq:
                return None
        # Nobody has been given anything from the first one on that is here, and new.
        new = (one.stream_seq for one in arrived if one.deliveries == 1)
        upto = min(new, default=info.stream_seq + 1) - 1
        await self._reset()
        arrived.clear()
        return upto

    async def _info(self) -> ConsumerInfo:
        info = await JetStreamAdmin(self._connection).consumer(self._stream, self._durable)
        if info is None:
            raise NotFound(f"there is no consumer {self._durable} on {self._stream}")
        return info

    def _others_have(self, info: ConsumerInfo) -> bool:
        if self._pin is None:
            return info.num_waiting > 0
        return not self._pin.holds(info.document)

    async def _reset(self) -> None:
        call = f"CONSUMER.RESET.{self._stream}.{self._durable}"
        try:
            await self._api.call(call)
        except (NotPermitted, ApiError) as error:
            raise CannotRewind(str(error)) from error
        except BrokerUnavailable as error:
            # It told of the durable a moment ago. Its leader may be gone since, but not each time.
            self._unanswered += self._connection.connected
            if self._unanswered < 2:
                raise
            raise CannotRewind(f"{error}: upgrade every server to 2.14 or newer") from error
        self._unanswered = 0


def _quiet_seconds(info: ConsumerInfo) -> float:
    """For how long nothing has been given out, nor acknowledged; 0 where the server cannot say."""
    if info.asked_at is None or info.last_active_at is None:
        return 0.0
    return (info.asked_at - info.last_active_at).total_seconds()
