"""An open pull on one durable (``contracts.Subscription``), over ``CONSUMER.MSG.NEXT``.

Owns: which pull requests are outstanding, what has arrived and not been handed out, settling,
having the durable give out again what is on its way (ADR 0014), and the pin of an exclusive one.
Guarantees: never asks for more than its caller's ``limit``; a cancelled ``next`` loses nothing;
what was not handed out is nak'ed on leaving; a pull that died with a server, a leader or a
connection is noticed (reconnect, status, missed heartbeats) and made anew; nobody else's deliveries
are given out twice.

A pull request ends by delivering its batch, by a status that says how much of it was not used (404,
408, 409), or silently with its server: hence the heartbeats. Each renewal has a new reply subject,
so a status for requests that were given up is ignored.

Of an exclusive durable it asks for a single message until it is pinned: what else that request
asked for would be no one's to give or to count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Self

from seaway import logs
from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.admin import JetStreamAdmin
from seaway.brokers.jetstream.api import Api
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.wire import DELIVERED, Frame, incoming_of
from seaway.contracts import JSON, REWINDS_SINCE, ConsumerInfo, Incoming
from seaway.errors import ApiError, BrokerUnavailable, CannotRewind, NotFound, NotPermitted
from seaway.retry import Backoff

logger = logs.logger("seaway.nats")

_EXPIRES = timedelta(seconds=30)
_HEARTBEAT = timedelta(seconds=2)
_ACK_TIMEOUT = timedelta(seconds=5)
_SERVING = timedelta(milliseconds=100)
_PAUSE = timedelta(milliseconds=10)
_BACKOFF = Backoff(timedelta(milliseconds=50), timedelta(seconds=2))
_QUIET_SECONDS = 0.25
"""How long nobody may be given anything: a process that handles slower than that is taken for
gone. Then it and we have the same in hand, and the inbox lets one of us pass."""
_MOMENT_SECONDS = 0.05
"""Within which a process that is idle asks anew when its pull has expired."""

_WRONG_PIN = "423"
_PIN_HEADER = "Nats-Pin-Id"
_SIGN_EVERY = timedelta(seconds=1)
_SIGN_TIMEOUT = timedelta(seconds=2)


def _nanoseconds(period: timedelta) -> int:
    return round(period.total_seconds() * 1_000_000) * 1000


_TERMS = f'"expires":{_nanoseconds(_EXPIRES)},"idle_heartbeat":{_nanoseconds(_HEARTBEAT)}'


class Pull:
    """``contracts.Subscription``; its context is the time that it is open. ``info``: the durable's,
    as it is now."""

    def __init__(self, connection: Connection, info: ConsumerInfo) -> None:
        self._connection = connection
        self._api = Api(connection)
        self._stream, self._durable = info.key
        self._name = f"{info.stream}.{info.durable}"
        self._subject = self._api.subject(f"CONSUMER.MSG.NEXT.{self._name}")
        self._inbox = connection.new_inbox()
        self._pin = Pin(info.config["priority_groups"][0]) if info.exclusive else None
        self._signing: asyncio.Task[None] | None = None
        self._unanswered = 0
        self._arrived: deque[Incoming] = deque()
        self._outstanding = self._renewals = self._gaps = 0
        self._now = asyncio.get_running_loop().time
        self._heard = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._unsure = self._drained = False
        self._gone: str | None = None
        self._news = asyncio.Event()
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._unwatch: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._unsubscribe = await self._connection.subscribe(
            f"{self._inbox}.*", self._on_frame, lost=self._restart
        )
        self._unwatch = self._connection.denials.watch(self._on_denial)
        if self._pin is not None:
            self._signing = asyncio.create_task(self._show_signs_of_life(self._pin))
        return self

    async def __aexit__(self, *ended: object) -> None:
        await self.drain()
        while self._arrived:
            await self.nak(self._arrived.popleft(), delay=timedelta(0))
        if self._pin is not None:
            await self._unpin(self._pin)

    @property
    def gaps(self) -> int:
        return self._gaps

    @property
    def standby(self) -> bool:
        return self._pin is not None and self._pin.id is None

    async def drain(self) -> None:
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
                    async with asyncio.timeout(_PAUSE.total_seconds()):
                        await self._news.wait()

    # ------------------------------------------------------------------ receiving

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        deadline, gaps = self._now() + timeout.total_seconds(), self._gaps
        while True:
            if self._gaps != gaps:
                return []
            if self._arrived:
                # So that the next is on its way while what has arrived is handled.
                if self._connection.connected and not self._unsure:
                    await self._ask_up_to(limit, self._now())
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

    async def _ask_up_to(self, limit: int, now: float) -> None:
        if self.standby:
            limit = 1
        coming = self._outstanding + len(self._arrived)
        if self._unsubscribe is None or now < self._not_before or coming > limit // 2:
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
            await self._info()
        except (BrokerUnavailable, ApiError):
            self._retry_later()
            return
        except NotFound as error:
            self._gone = str(error)
            self._news.set()
        self._unsure = False

    async def _info(self) -> ConsumerInfo:
        info = await JetStreamAdmin(self._connection).consumer(self._stream, self._durable)
        if info is None:
            raise NotFound(f"there is no consumer {self._durable} on {self._stream}")
        return info

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
        elif (
            pin is not None
            and status == _WRONG_PIN
            and frame.subject in (self._reply, f"{self._inbox}.{pin.id}")
        ):
            pin.id = None
            self._renew()
        elif frame.subject != self._reply:
            return
        elif status != "100":
            self._on_status(status, frame)
        if self._connection.denials.known:
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
            self._renew()
            self._retry_later()
            self._news.set()

    def _retry_later(self) -> None:
        self._failures += 1
        delay = _BACKOFF.delay(self._failures).total_seconds()
        self._not_before = self._now() + delay

    def _restart(self) -> None:
        if self._unsubscribe is None:
            return  # What comes again is for the next one.
        self._gaps += 1
        self._renew()
        self._not_before = 0.0
        self._unsure = True
        self._news.set()

    # ------------------------------------------------------------------ rewinding

    async def rewind(self, to: int | None = None) -> int | None:
        # nats-server 2.14 and newer. An older one answers nothing, and is not asked; nor does one
        # answer for a durable that it does not know.
        server = self._connection.server_info()
        if () < server.release < REWINDS_SINCE and not server.elsewhere:
            raise CannotRewind(
                f"nats-server {server.version} cannot do it: upgrade to 2.14 or newer"
            )
        info = await self._info()
        if to is not None:
            await self._reset({"seq": to})
            return info.stream_seq
        if self._others_have(info):
            return None
        if info.num_ack_pending <= len(self._arrived):
            return 0  # Nothing is on its way but what is here.
        if self._pin is None:
            # Who works off a backlog never waits for messages, but is given some.
            await asyncio.sleep(max(_MOMENT_SECONDS, _QUIET_SECONDS - _quiet_seconds(info)))
            later = await self._info()
            if self._others_have(later) or later.consumer_seq != info.consumer_seq:
                return None
        # Nobody has been given anything from the first one on that is here, and new.
        new = (one.stream_seq for one in self._arrived if one.deliveries == 1)
        upto = min(new, default=info.stream_seq + 1) - 1
        await self._reset()
        return upto

    def _others_have(self, info: ConsumerInfo) -> bool:
        return info.num_waiting > 0 if self._pin is None else not self._pin.held(info)

    async def _reset(self, body: JSON | None = None) -> None:
        try:
            await self._api.call(f"CONSUMER.RESET.{self._name}", body)
        except (NotPermitted, ApiError) as error:
            raise CannotRewind(str(error)) from error
        except BrokerUnavailable as error:
            # It told of the durable a moment ago. Its leader may be gone since, but not each time.
            self._unanswered += self._connection.connected
            if self._unanswered < 2:
                raise
            raise CannotRewind(f"{error}: upgrade every server to 2.14 or newer") from error
        self._unanswered = 0
        self._arrived.clear()

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

    # ------------------------------------------------------------------ the pin

    async def _show_signs_of_life(self, pin: Pin) -> None:
        """While it is pinned, by requests of a single byte: these take no message, whatever waits.
        Nothing else does the server count as a sign of life."""
        while True:
            await asyncio.sleep(_SIGN_EVERY.total_seconds())
            if pin.id is not None:
                body = f'{{"batch":1,"max_bytes":1,"expires":{10**9}{pin.terms}}}'
                # To each id its own reply subject.
                frame = wire.bare(self._subject, body, f"{self._inbox}.{pin.id}")
                await self._connection.send([frame], timeout=_SIGN_TIMEOUT)

    async def _unpin(self, pin: Pin) -> None:
        """Have another pull pinned at once, unless that has happened. Best effort."""
        if self._signing is not None:
            self._signing.cancel()
        if pin.id is None:
            return
        with contextlib.suppress(BrokerUnavailable, ApiError, NotFound):
            # Another one's pin would be lost to it for nothing.
            if pin.held(await self._info()):
                await self._api.call(f"CONSUMER.UNPIN.{self._name}", {"group": pin.group})


def _quiet_seconds(info: ConsumerInfo) -> float:
    """For how long nothing has been given out, nor acknowledged; 0 where the server cannot say."""
    if info.asked_at is None or info.last_active_at is None:
        return 0.0
    return (info.asked_at - info.last_active_at).total_seconds()


class Pin:
    """Which of an exclusive durable's pulls the server gives messages to (ADR 0012): our part.

    Whoever holds it keeps it while the event loop turns, also with no room for messages; whoever
    leaves has another one pinned at once. Source: nats-server 2.11 and newer, ADR-42 of NATS.

        no id ──a delivery under a new id──> pinned ──423: another is, or nobody──> no id
                                                └──every second──> a request that takes nothing
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.id: str | None = None
        """``None`` while the server does not give messages to this pull."""

    @property
    def terms(self) -> str:
        """What a pull request says of it."""
        group = f',"group":{json.dumps(self.group)}'
        return group if self.id is None else f'{group},"id":{json.dumps(self.id)}'

    def begins(self, frame: Frame) -> bool:
        """Whether this delivery begins a turn. Takes its id out of what are the event's headers."""
        found = frame.headers.get(_PIN_HEADER)
        if found is None:
            return False
        frame.headers = {
            name: value for name, value in frame.headers.items() if name != _PIN_HEADER
        }
        begins, self.id = found != self.id, found
        return begins

    def held(self, info: ConsumerInfo) -> bool:
        """Whether it is ours, by what the server says of the durable."""
        states = info.document.get("priority_groups") or ()
        return self.id is not None and self.id in (one.get("pinned_client_id") for one in states)
