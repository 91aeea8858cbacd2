"""An open pull on one durable (``contracts.Subscription``), over ``CONSUMER.MSG.NEXT``.

Owns: which pull requests are outstanding, what has arrived and not been handed out, and settling.
Guarantees: never asks for more than its caller's ``limit``; a cancelled ``next`` loses nothing;
what was not handed out is nak'ed on leaving; a pull that died with a server, a leader or a
connection is noticed (reconnect, status, missed heartbeats) and made anew.

A pull request ends by delivering its batch, by a status that says how much of it was not used (404,
408, 409), or silently with its server: hence the heartbeats. Each renewal has a new reply subject,
so a status for requests that were given up is ignored.

Of an exclusive durable (``pin``) it asks for a single message until it is pinned: what else that
request asked for would be no one's to give or to count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from seaway import logs
from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.admin import JetStreamAdmin
from seaway.brokers.jetstream.api import Api
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.pin import WRONG_PIN, Pin
from seaway.brokers.jetstream.rewinding import Rewinder
from seaway.brokers.jetstream.wire import DELIVERED, Frame, incoming_of
from seaway.contracts import Incoming
from seaway.errors import ApiError, BrokerUnavailable, NotFound, NotPermitted
from seaway.retry import Backoff

logger = logs.logger("seaway.nats")

_EXPIRES = timedelta(seconds=30)
_HEARTBEAT = timedelta(seconds=2)
_ACK_TIMEOUT = timedelta(seconds=5)
_SERVING = timedelta(milliseconds=100)
_QUIET = timedelta(milliseconds=10)
_BACKOFF = Backoff(timedelta(milliseconds=50), timedelta(seconds=2))


class Pull:
    """``contracts.Subscription``; its context is the time that it is open.

    ``group``: of an exclusive durable, that of its pulls.
    """

    def __init__(
        self, connection: Connection, stream: str, durable: str, *, group: str | None = None
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._durable = durable
        self._subject = Api(connection).subject(f"CONSUMER.MSG.NEXT.{stream}.{durable}")
        self._inbox = connection.new_inbox()
        self._pin = None if group is None else Pin(connection, stream, durable, group, self._inbox)
        self._rewinder = Rewinder(connection, stream, durable, self._pin)
        self._arrived: deque[Incoming] = deque()
        self._outstanding = self._renewals = self._gaps = 0
        self._now = asyncio.get_running_loop().time
        self._heard = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._unsure = self._denied = False
        self._gone: str | None = None
        self._asks, self._drained = True, False
        self._news = asyncio.Event()
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._unwatch: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._unsubscribe = await self._connection.subscribe(
            f"{self._inbox}.*", self._on_frame, lost=self._restart
        )
        self._unwatch = self._connection.denials.watch(self._on_denial)
        if self._pin is not None:
            self._pin.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain()
        while self._arrived:
            await self.nak(self._arrived.popleft(), delay=timedelta(0))
        if self._pin is not None:
            await self._pin.close()

    @property
    def gaps(self) -> int:
        return self._gaps

    @property
    def standby(self) -> bool:
        return self._pin is not None and self._pin.id is None

    async def drain(self) -> None:
        self._asks = False
        self._unwatch()
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            await self._served()
            # Until what the server has sent is here: dropped, it would come again only after
            # ack_wait.
            await unsubscribe()
        self._drained = True
        self._news.set()

    async def _served(self) -> None:
        """Wait until the server has finished sending: a message that finds no subscriber is sent
        again, and has used up a delivery."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SERVING.total_seconds()):
                while self._outstanding and self._connection.connected:
                    self._news.clear()
                    async with asyncio.timeout(_QUIET.total_seconds()):
                        await self._news.wait()

    # ------------------------------------------------------------------ receiving

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        deadline, gaps = self._now() + timeout.total_seconds(), self._gaps
        while True:
            if self._gaps != gaps:
                return []
            if self._arrived:
                await self._ask_ahead(limit, self._now())
                if self._gaps != gaps:
                    return []
                if self._arrived:  # Another caller may have been given it meanwhile.
                    return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]
            if self._drained:
                return []
            if self._gone is not None:
                raise NotFound(self._gone)
            if self._connection.closed:
                raise BrokerUnavailable(f"pulling {self._durable}: the connection is closed")
            now = self._now()
            if now >= deadline:
                return []
            self._news.clear()
            wake_at = min(deadline, await self._keep_asking(limit, now))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(wake_at):
                    await self._news.wait()

    async def _keep_asking(self, limit: int, now: float) -> float:
        """Have ``limit`` messages asked for; when to look again without news."""
        if not self._connection.connected:
            self._renew()
            return now + _HEARTBEAT.total_seconds()
        silent_at = self._heard + 2.5 * _HEARTBEAT.total_seconds()
        if self._outstanding and now >= silent_at:
            logger.warning("%s: no heartbeat for its pull, pulling anew", self._durable)
            self._renew()
        if now < self._not_before:
            return self._not_before
        if self._unsure:
            await self._look_whether_it_is_there()
        await self._ask_up_to(limit, now)
        return now + 2.5 * _HEARTBEAT.total_seconds()

    async def _ask_ahead(self, limit: int, now: float) -> None:
        """Before what has arrived is handed out, so that the next is on its way meanwhile."""
        if self._connection.connected and not self._unsure and now >= self._not_before:
            await self._ask_up_to(limit, now)

    async def _ask_up_to(self, limit: int, now: float) -> None:
        if self.standby:
            limit = 1
        coming = self._outstanding + len(self._arrived)
        if not self._asks or coming > limit // 2:
            return  # One request for many: each costs as much as some messages.
        count, sent = limit - coming, 0
        terms = _TERMS if self._pin is None else _TERMS + self._pin.terms
        frame = wire.bare(self._subject, f'{{"batch":{count},{terms}}}', self._reply)
        self._outstanding += count
        self._heard = now
        try:
            sent = await self._connection.send([frame], timeout=_ACK_TIMEOUT)
        finally:
            if not sent:
                self._outstanding = max(0, self._outstanding - count)

    async def _look_whether_it_is_there(self) -> None:
        """After a refusal that may mean a deleted consumer as well as a lost leader."""
        try:
            info = await JetStreamAdmin(self._connection).consumer(self._stream, self._durable)
        except (BrokerUnavailable, ApiError):
            self._retry_later()
            return
        self._unsure = False
        if info is None:
            self._gone = f"there is no consumer {self._durable} on {self._stream}"
            self._news.set()

    @property
    def _reply(self) -> str:
        return f"{self._inbox}.{self._renewals}"

    def _renew(self) -> None:
        """Count on none of the requests that are out."""
        self._outstanding = 0
        self._renewals += 1

    def _on_frame(self, frame: Frame) -> None:
        pin, status = self._pin, None
        if frame.reply.startswith(DELIVERED) or (status := frame.status) is None:
            self._outstanding = max(0, self._outstanding - 1)
            self._failures = 0
            if pin is not None and pin.begins(frame):
                # Requests that do not say the new id are given nothing any more.
                self._renew()
                self._gaps += 1
            try:
                self._arrived.append(incoming_of(frame))
            except ValueError:
                logger.exception("%s: a delivery without JetStream's reply", self._durable)
        elif pin is not None and status == WRONG_PIN and frame.subject in (self._reply, pin.reply):
            pin.id = None
            self._renew()
        elif frame.subject != self._reply:
            return
        elif status != "100":
            self._on_status(status, frame)
        if self._denied:
            self._denied = False
            self._connection.denials.answered(self._subject)
        self._heard = self._now()
        if status != "100":
            self._news.set()

    def _on_status(self, status: str, frame: Frame) -> None:
        text = frame.description.lower()
        try:
            unused = int(frame.headers["Nats-Pending-Messages"])
        except (KeyError, ValueError):
            unused = self._outstanding
        self._outstanding = max(0, self._outstanding - unused)
        if status in ("404", "408"):
            return
        if "deleted" in text or "push based" in text:
            self._gone = f"consumer {self._durable} on {self._stream}: {frame.description}"
            return
        if status == "400" and self._pin is not None:
            self._pin.id = None  # The durable is not exclusive any more.
        # 503, or 409 for a shutdown, a new leader, too many waiting pulls.
        self._renew()
        self._unsure = True
        self._retry_later()

    def _on_denial(self, denial: NotPermitted) -> None:
        if denial.subject == self._subject:
            # Nothing answers such a request; it may be granted any time.
            self._denied = True
            self._renew()
            self._retry_later()
            self._news.set()

    def _retry_later(self) -> None:
        self._failures += 1
        delay = _BACKOFF.delay(self._failures).total_seconds()
        self._not_before = self._now() + delay

    def _restart(self) -> None:
        if not self._asks:
            return  # What comes again is for the next one.
        self._gaps += 1
        self._renew()
        self._not_before = 0.0
        self._unsure = True
        self._news.set()

    async def rewind(self) -> int | None:
        return await self._rewinder.rewind(self._arrived)

    # ------------------------------------------------------------------ settling

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        subjects = [delivery.reply for delivery in incoming]

        def concerned(denial: NotPermitted) -> bool:
            return denial.subject in subjects  # The others' are of the same right.

        with self._connection.ask(len(incoming), concerned) as asked:
            pairs = zip(subjects, asked.replies, strict=True)
            frames = [wire.bare(subject, "+ACK", reply) for subject, reply in pairs]
            sent = await self._connection.send(frames, timeout=_ACK_TIMEOUT)
            answers = await asked.answers(timeout=_ACK_TIMEOUT, asked=sent)
        if any(answers):
            self._connection.denials.answered(subjects[0])
        return [answer is not None and answer.status != "503" for answer in answers]

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        body = "-NAK"
        if delay > timedelta(0):
            body += " " + json.dumps({"delay": _nanoseconds(delay)})
        await self._tell(body, incoming)

    async def in_progress(self, *incoming: Incoming) -> None:
        await self._tell("+WPI", *incoming)

    async def _tell(self, body: str, *incoming: Incoming) -> None:
        # Without a connection the message comes again after ack_wait anyway.
        frames = (wire.bare(delivery.reply, body) for delivery in incoming)
        await self._connection.send(frames, timeout=_ACK_TIMEOUT)


def _nanoseconds(period: timedelta) -> int:
    return round(period.total_seconds() * 1_000_000) * 1000


_TERMS = f'"expires":{_nanoseconds(_EXPIRES)},"idle_heartbeat":{_nanoseconds(_HEARTBEAT)}'
