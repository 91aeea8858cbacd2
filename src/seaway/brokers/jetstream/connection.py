"""A connection to NATS, over its client's core connection (``client``): sending, hearing, asking.

Owns: subscriptions, the match of answers to questions, and what becomes of both when a connection
is lost. Must not know JetStream: that protocol stands in this package's other modules (ADR 0004).
Guarantees: reconnects for ever once connected; sends nothing while disconnected (what a buffer
would hold back and send later, its caller has long given up on); tells each loss and return of the
connection once. A question is answered at most once; an answer that cannot come any more (its
connection was lost) is ``None`` at once instead of running into a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeAlias

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.client import FrameHandler, SturdyClient, describe, errors
from seaway.brokers.jetstream.credentials import Credentials
from seaway.brokers.jetstream.permissions import Denials
from seaway.brokers.jetstream.wire import Frame
from seaway.config import OWN_API, NatsSettings, ServerUrl
from seaway.contracts import Message, ServerInfo
from seaway.databases.tasks import to_its_end
from seaway.errors import BrokerUnavailable, ConfigError, NotPermitted
from seaway.process import Opened
from seaway.telemetry import Disconnected, Reconnected, Telemetry

AnswerHandler: TypeAlias = Callable[[Frame | None], None]

_DEAF_SECONDS = 10
"""After how long a subscription that was denied is asked for again."""
_RECONNECT_WAIT_SECONDS = 0.25
_CHUNK_BYTES = 64 * 1024
_PENDING_BYTES = 16 * 1024 * 1024


class Connection:
    """A core NATS connection. Made by ``connecting.open_connection``."""

    def __init__(
        self, settings: NatsSettings, telemetry: Telemetry, credentials: Credentials
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.client = SturdyClient(credentials)
        self.opened = Opened("the connection to NATS")
        self.denials = Denials(telemetry, inbox=settings.inbox_prefix, api=settings.api)
        self.last_error: Exception | None = None
        self.epoch = 0
        """Counts losses of the connection: whoever waits for an answer of an earlier epoch waits in
        vain, and what was half sent in one is not continued in another."""
        self._tokens = itertools.count()
        self._answers_to = self.new_inbox()
        self._waiting: dict[str, AnswerHandler] = {}
        self._in_vain: Iterable[str] = ()
        self._losses: set[Callable[[], None]] = set()
        self._connected_once = False
        self._deaf: asyncio.TimerHandle | None = None
        self._mending: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether it can send now."""
        return bool(self.client.is_connected)

    @property
    def closed(self) -> bool:
        """Whether it is closed for good."""
        return bool(self.client.is_closed)

    def server_info(self) -> ServerInfo:
        """What the server said of itself when this connection was made."""
        info = self.client.said
        url = self.client.connected_url
        elsewhere = self.settings.api != OWN_API
        return ServerInfo(
            version=str(info.get("version", "")),
            # That of another domain or prefix is not this server's to have.
            jetstream=bool(info.get("jetstream", False)) or elsewhere,
            max_payload_bytes=int(self.client.max_payload),
            server_name=str(info.get("server_name", "")),
            cluster=info.get("cluster"),
            url="" if url is None else f"{url.scheme}://{url.hostname}:{url.port}",
            elsewhere=elsewhere,
        )

    def new_inbox(self) -> str:
        """A reply subject that nobody else listens on, under the permitted prefix."""
        return f"{self.settings.inbox_prefix}.{secrets.token_hex(8)}.{next(self._tokens)}"

    async def open(self, server: ServerUrl, others: list[str], *, name: str) -> None:
        """Connect to ``server``, once; then again for ever, to it and to ``others``.

        What fails is raised as the client has it; ``close`` in any case.
        """
        keys = self.client.credentials.keys
        await self.client.connect(
            servers=[server.url],
            name=name,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=_RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]
            connect_timeout=self.settings.connect_timeout.total_seconds(),  # type: ignore[arg-type]
            pending_size=_PENDING_BYTES,
            inbox_prefix=self.settings.inbox_prefix,
            signature_cb=None if keys is None else keys.sign,
            user_jwt_cb=None if keys is None else keys.jwt,
            tls=self.client.credentials.tls,
            tls_handshake_first=self.settings.tls_first,
        )
        # A first connection that fails is the caller's to know; a lost one is ours to mend.
        self.client.last(others)
        self._connected_once = True
        await self.subscribe(f"{self._answers_to}.*", self._on_answer)

    async def close(self) -> None:
        """Send what is buffered, and close; whoever waits for an answer has none. Closed also when
        cancelled meanwhile. Idempotent."""
        if self._deaf is not None:
            self._deaf.cancel()
        try:
            if not self.client.is_closed:
                await self._close()
        finally:
            self._give_up(tuple(self._waiting))

    async def _close(self) -> None:
        try:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                if self.client.is_connected:
                    await self.client.flush(1)
        finally:
            with contextlib.suppress(errors.Error, OSError):
                await to_its_end(self.client.close())

    # ------------------------------------------------------------------ sending

    async def send(
        self, frames: Iterable[bytes], *, timeout: timedelta, epoch: int | None = None
    ) -> int:
        """Send prepared ``frames`` (see ``wire``) in order; how many the socket was given.

        Fewer than all where there is no connection, where it was lost on the way (the rest is not
        sent on another) or is not that of ``epoch`` any more, or where the server took nothing for
        ``timeout``; ``away`` says why.
        Takes from ``frames`` as it goes, and gives the loop a turn every 64 KiB.
        """
        self.opened.refuse_in_fork()
        epoch, sent = self.epoch if epoch is None else epoch, 0
        with contextlib.suppress(OSError):  # A TimeoutError is one.
            async with asyncio.timeout(timeout.total_seconds()):
                for chunk in wire.chunks(frames, _CHUNK_BYTES):
                    if sent:
                        await asyncio.sleep(0)
                    if self.client.is_connected:
                        await self.client.written()
                    if not self.client.is_connected or self.epoch != epoch:
                        break
                    self.client.write(chunk)
                    sent += len(chunk)
        return sent

    def away(self) -> BrokerUnavailable:
        """What to tell of not being able to send."""
        if self.connected:
            return BrokerUnavailable(f"{self.settings.redacted_url} stopped taking messages")
        state = "the connection is closed" if self.closed else "no connection to"
        why = f": {describe(self.last_error)}" if self.last_error else ""
        return BrokerUnavailable(f"{state} {self.settings.redacted_url}{why}")

    # ------------------------------------------------------------------ hearing

    async def subscribe(
        self, subject: str, handler: FrameHandler, *, lost: Callable[[], None] = lambda: None
    ) -> Callable[[], Awaitable[None]]:
        """Call ``handler`` for each message until the returned coroutine function is awaited.

        Survives reconnects: ``lost`` is called after each, for what did not come meanwhile. Both
        must be quick and must not raise.
        """
        self.opened.refuse_in_fork()

        try:
            subscription = await self.client.subscribe(subject)
        except errors.Error as error:
            raise BrokerUnavailable(f"{subject}: {describe(error)}") from error
        forget = self.client.hear(subscription, handler)
        self._losses.add(lost)

        async def unsubscribe() -> None:
            """Stop, but hand over what the server has sent by now."""
            self._losses.discard(lost)
            try:
                with contextlib.suppress(errors.Error, TimeoutError):
                    async with asyncio.timeout(2):
                        if self.client.is_connected:
                            await _heeding(subscription.drain())  # type: ignore[no-untyped-call]
                            return
                with contextlib.suppress(errors.Error):
                    await subscription.unsubscribe()
            finally:
                forget()

        return unsubscribe

    # ------------------------------------------------------------------ asking

    async def request(self, subject: str, payload: bytes = b"") -> Frame:
        """Send and wait for one answer; ``BrokerUnavailable`` where none comes in time, and
        ``NotPermitted`` as soon as the server says so.

        An answer of status 503 (nobody listens) is returned as it is: what it means, the caller
        knows.
        """
        message = wire.prepare(Message(subject, payload))
        if message.size > self.client.max_payload:
            raise ConfigError(f"{subject}: more than the server's max_payload: {message.size}")
        if self.connected and (deaf := self.denials.deaf) is not None:
            raise deaf

        def concerned(denial: NotPermitted) -> bool:
            # Where it may not listen for answers, none will come to anybody.
            return denial.subject == subject or denial.verb == "subscribe"

        timeout = self.settings.request_timeout
        with self.ask(1, concerned) as asked:
            frame = wire.single(message, asked.replies[0].encode())
            if not await self.send([frame], timeout=timeout):
                raise self.away()
            [answer] = await asked.answers(timeout=timeout, asked=1)
        if asked.denied is not None:
            raise asked.denied
        if answer is None:
            raise BrokerUnavailable(f"{subject}: no answer in time")
        self.denials.answered(subject)
        return answer

    @contextlib.contextmanager
    def ask(self, count: int, concerned: Callable[[NotPermitted], bool]) -> Iterator[Questions]:
        """``count`` questions with one wait for all; nobody waits for them afterwards, nor once the
        server says something that they are ``concerned`` with."""
        questions = Questions(count, self.expect)

        def on_denial(denial: NotPermitted) -> None:
            if concerned(denial):
                questions.deny(denial)

        unwatch = self.denials.watch(on_denial)
        try:
            yield questions
        finally:
            unwatch()
            for reply in questions.replies:
                self.forget(reply)

    def expect(self, handler: AnswerHandler) -> str:
        """A fresh reply subject; ``handler`` is called with its answer, and must be quick."""
        reply = f"{self._answers_to}.{next(self._tokens)}"
        self._waiting[reply] = handler
        return reply

    def forget(self, reply: str) -> None:
        """Nobody waits for this one any more. Idempotent."""
        self._waiting.pop(reply, None)

    def _on_answer(self, frame: Frame) -> None:
        handler = self._waiting.pop(frame.subject, None)
        if handler is not None:
            handler(frame)

    def _give_up(self, replies: Iterable[str]) -> None:
        for reply in replies:
            handler = self._waiting.pop(reply, None)
            if handler is not None:
                handler(None)

    # ------------------------------------------------------------------ what the client tells

    async def _on_error(self, error: Exception) -> None:
        denial = self.denials.heard(str(error))
        if denial is None:
            self.last_error = error
        elif denial.verb == "subscribe" and self._deaf is None:
            # The server has forgotten that we asked; connecting again asks for all of them.
            loop = asyncio.get_running_loop()
            self._deaf = loop.call_later(_DEAF_SECONDS, self._connect_again, denial)

    def _connect_again(self, denial: NotPermitted) -> None:
        self._deaf = None
        if self.connected:
            self.last_error = denial
            self._mending = asyncio.ensure_future(self.client.lose(str(denial)))

    async def _on_disconnect(self) -> None:
        self.epoch += 1
        # Others may be asked on the next connection before the client tells of that.
        self._in_vain = tuple(self._waiting)
        if self._connected_once and not self.client.is_closed:
            why = describe(self.last_error) if self.last_error else "the connection was lost"
            self.telemetry.emit(Disconnected(why))

    async def _on_reconnect(self) -> None:
        self.last_error = None
        self.denials.forget()
        self.telemetry.emit(Reconnected(self.server_info().url))
        self._give_up(self._in_vain)
        for lost in tuple(self._losses):
            lost()


class Questions:
    """Asked together: one future for all. ``replies``: where each is answered, in order."""

    def __init__(self, count: int, expect: Callable[[AnswerHandler], str]) -> None:
        answered = self._answered
        self.replies: Sequence[str] = [expect(answered) for _ in range(count)]
        self.denied: NotPermitted | None = None
        """What the server said instead of answering."""
        self._answers: dict[str, Frame] = {}
        self._open = count
        self._all = asyncio.get_running_loop().create_future()

    async def answers(self, *, timeout: timedelta, asked: int) -> list[Frame | None]:
        """In order; ``None`` for each that did not come in time, or was not ``asked``.

        ``asked``: how many of them, from the first, were sent at all.
        """
        self._open -= len(self.replies) - asked
        if self._open > 0:
            await asyncio.wait([self._all], timeout=timeout.total_seconds())
        return [self._answers.get(reply) for reply in self.replies]

    def deny(self, denial: NotPermitted) -> None:
        """Wait no longer: no more answers will come. Idempotent."""
        self.denied = denial
        self._open = 0
        if not self._all.done():
            self._all.set_result(None)

    def _answered(self, answer: Frame | None) -> None:
        if answer is not None:
            self._answers[answer.subject] = answer
        self._open -= 1
        if self._open == 0 and not self._all.done():
            self._all.set_result(None)


async def _heeding(work: Awaitable[None]) -> None:
    """Await ``work``, and the cancellation that nats-py passes over there: without it, who was told
    to end at once would go on."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    await work
    if task.cancelling() > cancelled:
        raise asyncio.CancelledError
