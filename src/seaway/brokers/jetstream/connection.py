"""A connection to NATS, over its client's core connection (``client``).

Owns: authentication, TLS, reconnects, subscriptions, requests, and the translation of the client's
errors. Must not know JetStream: that protocol stands in this package's other modules (ADR 0004).
Guarantees: reconnects for ever once connected; sends nothing while disconnected (what a buffer
would hold back and send later, its caller has long given up on); tells each loss and return of the
connection once; a wait for the first one is logged, and is neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from seaway import logs
from seaway.brokers.jetstream.client import FrameHandler, Msg, SturdyClient, errors
from seaway.brokers.jetstream.denials import Denials
from seaway.brokers.jetstream.frames import Frame
from seaway.brokers.jetstream.options import ClientOptions, client_options
from seaway.brokers.jetstream.refusals import Attempt, describe, refusal
from seaway.brokers.jetstream.wire import chunks
from seaway.config import OWN_API, NatsSettings, ServerUrl
from seaway.contracts import ServerInfo
from seaway.errors import BrokerUnavailable, ConfigError, NotPermitted, SeawayError
from seaway.forks import Opened
from seaway.retry import Backoff
from seaway.telemetry import Disconnected, Reconnected, Telemetry
from seaway.waiting import heeding, result_before

logger = logs.logger("seaway.nats")

_DEAF_SECONDS = 10
"""After how long a subscription that was denied is asked for again."""
_SLACK_SECONDS = 0.5
_GIVE_UP_SECONDS = 2
_CHUNK_BYTES = 64 * 1024
_PENDING_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Connection:
    """A core NATS connection. Made by ``open_connection``."""

    settings: NatsSettings
    telemetry: Telemetry
    client: SturdyClient = field(default_factory=SturdyClient)
    opened: Opened = field(default_factory=lambda: Opened("the connection to NATS"))
    last_error: str = ""
    epoch: int = 0
    """Counts losses of the connection: whoever waits for an answer of an earlier epoch waits in
    vain, and what was half sent in one is not continued in another."""
    _watchers: list[Callable[[], None]] = field(default_factory=list)
    denials: Denials = field(init=False)
    _tokens: itertools.count[int] = field(default_factory=itertools.count)
    _connected_once: bool = False
    _deaf: asyncio.TimerHandle | None = None
    _mending: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self.denials = Denials(
            self.telemetry, inbox=self.settings.inbox_prefix, api=self.settings.api
        )

    @property
    def connected(self) -> bool:
        """Whether it can send now."""
        return bool(self.client.is_connected)

    @property
    def closed(self) -> bool:
        """Whether it is closed for good."""
        return bool(self.client.is_closed)

    @property
    def request_timeout(self) -> timedelta:
        """How long an API request may take."""
        return self.settings.request_timeout

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

    def on_reconnect(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` after each reconnect, until the returned call."""
        self._watchers.append(watcher)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._watchers.remove(watcher)

        return forget

    def new_inbox(self) -> str:
        """A reply subject that nobody else listens on, under the permitted prefix."""
        return f"{self.settings.inbox_prefix}.{secrets.token_hex(8)}.{next(self._tokens)}"

    def on_denial(self, watcher: Callable[[str], None]) -> Callable[[], None]:
        """Call ``watcher`` with each subject that we may not publish to, until the returned call.

        The server tells of it beside the messages, and answers none of them.
        """

        def on_denial(denial: NotPermitted) -> None:
            if denial.verb == "publish":
                watcher(denial.subject)

        return self.denials.watch(on_denial)

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send once, without an answer. ``BrokerUnavailable`` while there is no connection."""
        self.opened.check()
        if not self.client.is_connected:
            raise self.away()
        try:
            await self.client.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except errors.Error as error:
            raise self._translate(error, subject) from error

    async def send(self, frames: Iterable[bytes], *, timeout: timedelta) -> int:
        """Send prepared ``frames`` (see ``wire``) in order; how many the socket was given.

        Fewer than all where there is no connection, where it was lost on the way (the rest is not
        sent on another), or where the server took nothing for ``timeout``; ``away`` says why.
        Takes from ``frames`` as it goes, and gives the loop a turn every 64 KiB.
        """
        self.opened.check()
        epoch, sent = self.epoch, 0
        with contextlib.suppress(OSError):  # A TimeoutError is one.
            async with asyncio.timeout(timeout.total_seconds()):
                for chunk in chunks(frames, _CHUNK_BYTES):
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
        return BrokerUnavailable(
            f"{state} {self.settings.redacted_url}"
            + (f": {self.last_error}" if self.last_error else "")
        )

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
    ) -> Frame:
        """Send and wait for one answer; ``BrokerUnavailable`` where none comes in time, and
        ``NotPermitted`` as soon as the server says so.

        An answer of status 503 (nobody listens) is returned as it is: what it means, the caller
        knows.
        """
        self.opened.check()
        if not self.client.is_connected:
            raise self.away()
        if (deaf := self.denials.deaf) is not None:
            raise deaf
        limit = (timeout or self.request_timeout).total_seconds()
        denied: asyncio.Future[NotPermitted] = asyncio.get_running_loop().create_future()

        def on_denial(denial: NotPermitted) -> None:
            # Where it may not listen for answers, none will come to anybody.
            concerned = denial.subject == subject or denial.verb == "subscribe"
            if concerned and not denied.done():
                denied.set_result(denial)

        asking = self.client.request(
            subject, payload, timeout=limit, headers=dict(headers) if headers else None
        )
        forget = self.denials.watch(on_denial)
        try:
            answer = await result_before(denied, asking)
            if answer is None:
                raise denied.result()
        except errors.NoRespondersError:
            self.denials.answered(subject)
            return Frame(subject, "", {"Status": "503", "Description": "No Responders"}, b"")
        except (errors.Error, TimeoutError) as error:
            raise self._translate(error, subject) from error
        finally:
            forget()
        self.denials.answered(subject)
        return _frame(answer)

    async def subscribe(self, subject: str, handler: FrameHandler) -> Callable[[], Awaitable[None]]:
        """Call ``handler`` for each message until the returned coroutine function is awaited.

        Survives reconnects. ``handler`` must be quick and must not raise.
        """

        self.opened.check()

        async def on_message(message: Msg) -> None:
            handler(_frame(message))

        try:
            subscription = await self.client.subscribe(
                subject, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except errors.Error as error:
            raise self._translate(error, subject) from error
        forget = self.client.hear(subscription, handler)

        async def unsubscribe() -> None:
            """Stop, but hand over what the server has sent by now."""
            try:
                with contextlib.suppress(errors.Error, TimeoutError):
                    async with asyncio.timeout(2):
                        if self.client.is_connected:
                            await subscription.drain()  # type: ignore[no-untyped-call]
                            return
                with contextlib.suppress(errors.Error):
                    await subscription.unsubscribe()
            finally:
                forget()

        return unsubscribe

    async def flush(self) -> None:
        """Return when the server has read all that was sent."""
        self.opened.check()
        try:
            await heeding(self.client.flush(max(1, int(self.request_timeout.total_seconds()))))
        except errors.Error as error:
            raise self._translate(error, "flush") from error

    async def close(self) -> None:
        """Send what is buffered, and close. Idempotent."""
        if self._deaf is not None:
            self._deaf.cancel()
        if not self.client.is_closed:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                if self.client.is_connected:
                    await self.client.flush(1)
            with contextlib.suppress(errors.Error, OSError):
                await self.client.close()

    # ------------------------------------------------------------------ what the client tells

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        denial = self.denials.heard(text)
        if denial is None:
            self.last_error = text
        elif denial.verb == "subscribe" and self._deaf is None:
            # The server has forgotten that we asked; connecting again asks for all of them.
            loop = asyncio.get_running_loop()
            self._deaf = loop.call_later(_DEAF_SECONDS, self._connect_again, denial)

    def _connect_again(self, denial: NotPermitted) -> None:
        self._deaf = None
        if self.connected:
            self.last_error = str(denial)
            self._mending = asyncio.ensure_future(self.client.lose(str(denial)))

    async def _on_disconnect(self) -> None:
        self.epoch += 1
        if self._connected_once and not self.client.is_closed:
            self.telemetry.emit(Disconnected(self.last_error or "the connection was lost"))

    async def _on_reconnect(self) -> None:
        self.last_error = ""
        self.denials.forget()
        self.telemetry.emit(Reconnected(self.server_info().url))
        for watcher in tuple(self._watchers):
            watcher()

    def _translate(self, error: Exception, subject: str) -> SeawayError:
        for kind, make in _ERRORS:
            if isinstance(error, kind):
                return make(f"{subject}: {describe(error)}")
        return BrokerUnavailable(f"{subject}: {describe(error)}")


_ERRORS: tuple[tuple[type[Exception], Callable[[str], SeawayError]], ...] = (
    (errors.MaxPayloadError, ConfigError),
    (errors.BadSubjectError, ConfigError),
    (errors.BadHeaderError, ConfigError),
    (TimeoutError, BrokerUnavailable),
    (errors.ConnectionClosedError, BrokerUnavailable),
    (errors.OutboundBufferLimitError, BrokerUnavailable),
)


def _frame(message: Msg) -> Frame:
    return Frame(message.subject, message.reply, message.headers or {}, message.data)


async def open_connection(
    settings: NatsSettings, *, telemetry: Telemetry, name: str, wait: bool
) -> Connection:
    """Connect. ``wait``: try for ever; otherwise ``BrokerUnavailable`` once every server failed.

    ``ConfigError`` where a server refuses the credentials, its TLS is not as the settings have it,
    or a file of theirs cannot be read; waiting would not mend it.
    """
    backoff, attempt = Backoff(timedelta(milliseconds=100), timedelta(seconds=2)), 0
    while True:
        try:
            connection = await _connect_to_any(settings, telemetry, name)
        except BrokerUnavailable as error:
            if not wait:
                raise
            attempt += 1
            if attempt == 1:
                logger.warning("waiting for the server: %s; trying on", error)
            await asyncio.sleep(backoff.delay(attempt).total_seconds())
        else:
            connection._connected_once = True
            if attempt:
                logger.info("connected to %s", connection.server_info().url)
            return connection


async def _connect_to_any(settings: NatsSettings, telemetry: Telemetry, name: str) -> Connection:
    options = client_options(settings)
    servers = random.sample(settings.servers, len(settings.servers))
    failures: list[SeawayError] = []
    for server in servers:
        connection = Connection(settings, telemetry, SturdyClient(options))
        others = [one.url for one in servers if one is not server]
        try:
            await _connect(connection, options, server, others, name)
        except SeawayError as error:
            failures.append(error)
        else:
            return connection
    for failure in failures:
        if isinstance(failure, ConfigError):
            raise failure
    if len(failures) == 1:
        raise failures[0]
    raise BrokerUnavailable("; ".join(map(str, failures)))


async def _connect(
    connection: Connection,
    options: ClientOptions,
    server: ServerUrl,
    others: list[str],
    name: str,
) -> None:
    client, settings = connection.client, connection.settings
    seen: list[Exception] = []
    keys = options.keys

    async def on_error(error: Exception) -> None:
        seen.append(error)
        await connection._on_error(error)

    try:
        async with asyncio.timeout(settings.connect_timeout.total_seconds() + _SLACK_SECONDS):
            await client.connect(
                servers=[server.url],
                name=name,
                error_cb=on_error,
                disconnected_cb=connection._on_disconnect,
                reconnected_cb=connection._on_reconnect,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                pending_size=_PENDING_BYTES,
                inbox_prefix=settings.inbox_prefix,
                signature_cb=None if keys is None else keys.sign,
                user_jwt_cb=None if keys is None else keys.jwt,
                tls=options.tls,
                **options.connect,
            )
    except (errors.Error, OSError) as error:  # A TimeoutError is one.
        await _give_up(client)
        cause: BaseException = seen[-1] if seen else error
        while cause.__cause__ is not None and isinstance(cause, errors.Error):
            cause = cause.__cause__
        attempt = Attempt(
            server.url,
            client.socket.step,
            known=options.known,
            certified=options.certified,
            asked=bool(client.said.get("tls_verify")),
            tls_first=settings.tls_first,
        )
        raise refusal(attempt, cause) from error
    except BaseException:
        await _give_up(client)
        raise
    # A first connection that fails is the caller's to know; a lost one is ours to mend, for ever.
    client.last(others)


async def _give_up(client: SturdyClient) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            await client.close()
