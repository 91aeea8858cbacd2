"""The one module that imports the NATS client, and uses no more of it than its core connection.

Owns: authentication, TLS, reconnects, subscriptions, requests, and the translation of the client's
errors. Must not know JetStream: that protocol stands in this package's other modules (ADR 0004).
Guarantees: reconnects for ever once connected; sends nothing while disconnected (what a buffer
would hold back and send later, its caller has long given up on); tells each loss and return of the
connection once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.parser import Parser

from seaway import logs
from seaway.brokers.jetstream.denials import Denials
from seaway.brokers.jetstream.frames import Frame, cut, frame
from seaway.brokers.jetstream.options import ClientOptions, Login, client_options
from seaway.brokers.jetstream.refusals import Attempt, describe, no_tls, refusal
from seaway.brokers.jetstream.transport import Transport
from seaway.brokers.jetstream.wire import chunks
from seaway.config import NatsSettings, ServerUrl
from seaway.config.models import OWN_API
from seaway.config.urls import WEB_SCHEMES
from seaway.contracts import ServerInfo
from seaway.errors import BrokerUnavailable, ConfigError, NotPermitted, SeawayError
from seaway.forks import Opened
from seaway.retry import Backoff
from seaway.telemetry import Disconnected, Reconnected, Telemetry
from seaway.waiting import heeding, result_before

logger = logs.logger("seaway.nats")
logging.getLogger("nats").setLevel(logging.CRITICAL)  # Everything it says reaches our error_cb.

_DEAF_SECONDS = 10
"""After how long a subscription that was denied is asked for again."""
_SLACK_SECONDS = 0.5
_GIVE_UP_SECONDS = 2
_CHUNK_BYTES = 64 * 1024
_PENDING_BYTES = 16 * 1024 * 1024


FrameHandler: TypeAlias = Callable[[Frame], None]


class _SturdyClient(Client):
    """nats-py's client, where a foreign message or a server's complaint would end it.

    Its read loop ends on a header block or a subject that it cannot decode, and goes on looking
    connected; a stream would redeliver such a message for ever. And any ``-ERR`` but two closes it
    for good, where connecting again is what heals. It also keeps what was not flushed for the next
    connection, reads with a search for each message and two moves of all that is behind it, hands
    each over through a queue and a task, and encodes and flushes each publication by itself: here
    none of that is done. (nats-py 2.16; all methods are its own.)
    """

    def __init__(self, options: ClientOptions | None = None) -> None:
        super().__init__()
        self._seaway = options or ClientOptions({}, Login())
        self.socket = Transport()
        keys = self._seaway.keys
        self._auth_configured = self._seaway.known
        if keys is not None:
            self._public_nkey = keys.public
        self._ps = _Reader(self)
        self.handlers: dict[int, FrameHandler] = {}
        """By subscription id: called at once, without a task's turn for each message."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Hand ``frames`` to the socket, behind what waits to be flushed. Only while connected."""
        assert self._transport is not None
        self._transport.write(b"".join((*self._pending, *frames)))
        self._pending = []
        self._pending_data_size = 0

    async def written(self) -> None:
        """Return when the socket takes more. ``OSError`` where it is lost."""
        assert self._transport is not None
        await self._transport.drain()  # type: ignore[no-untyped-call]

    async def _connect_to_server(self, s: Any) -> None:
        if s.uri.scheme not in WEB_SCHEMES:
            self._transport = cast(Any, self.socket)
        login = self._seaway.logins.get((s.uri.hostname, s.uri.port), self._seaway.login)
        self.options.update(user=login.user, password=login.password, token=login.token)
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        try:
            return super()._connect_command()
        except ConfigError as error:
            # Any other than the client's own would end its reconnecting.
            raise nats.errors.Error(str(error)) from error

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._seaway.tls is not None:
            # Else it would go on without, and say in the open who we are.
            offered = info.get("tls_required") or info.get("tls_available")
            assert self._current_server is not None
            uri = self._current_server.uri
            if not offered and not self.options["tls_handshake_first"] and uri.scheme != "wss":
                error = no_tls(f"{uri.scheme}://{uri.hostname}:{uri.port}")
                raise nats.errors.Error(str(error)) from error
            info["tls_required"] = uri.scheme != "wss"
        await super()._process_info(info, initial_connection)

    async def _attempt_reconnect(self) -> None:
        # Kept, it would reach the server long after its caller was told that it had not.
        self._pending = []
        self._pending_data_size = 0
        await super()._attempt_reconnect()

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # Its PONG is to say that what waits here has been read too, an UNSUB above all: what the
        # server sends after a PONG that was asked for before would be lost until ack_wait.
        if self.is_connected:
            self.write(())
        await super()._send_ping(future)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        if not subject.isascii():
            subject = subject.decode("utf-8", "replace").encode()
        await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (IndexError, ValueError):
            return None

    async def _process_err(self, err_msg: str) -> None:
        text = str(err_msg).strip("'")
        if self.is_connected and "stale" not in text.lower():
            error = nats.errors.Error(f"nats: {text}")
            await self._error_cb(error)
            if "permissions violation" not in text.lower():
                await self._process_op_err(error)
            return
        await super()._process_err(str(err_msg).lower())


class _Reader(Parser):
    """Reads what arrives for ``_SturdyClient``: a chunk's messages in one go, other lines as ever.

    Guarantees: a message that comes in many chunks is put together once, however long it is.
    """

    def __init__(self, client: _SturdyClient) -> None:
        self._client = client
        self._resets = 0
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        self._chunks: list[bytes] = []
        self._held = self._lacking = 0
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        self._chunks.append(data)
        self._held += len(data)
        if self._held < self._lacking:
            return
        received, place = b"".join(self._chunks), 0
        resets, handlers = self._resets, self._client.handlers
        while True:
            try:
                found = cut(received, place)
            except ValueError as error:
                raise nats.errors.ProtocolError from error
            if isinstance(found, int):
                break
            place = found.end
            handler = handlers.get(found.sid)
            if handler is not None:
                try:
                    handler(frame(found))
                except Exception as error:
                    await self._client._error_cb(error)  # Raised, it would end the read loop.
            elif found.sid:
                await self._client._process_msg(*found[1:4], found.data, found.block)
            elif found.data.startswith(b"-ERR"):
                # The client's own reading makes subjects lower case.
                await self._client._process_err(found.data[4:].decode("utf-8", "replace").strip())
            else:
                await super().parse(found.data)
            if self._resets != resets:
                return  # The connection that this came from is no more.
        self._chunks = [received[place:]]
        self._held, self._lacking = len(self._chunks[0]), found


@dataclass(slots=True)
class Connection:
    """A core NATS connection. Made by ``open_connection``."""

    settings: NatsSettings
    telemetry: Telemetry
    client: _SturdyClient = field(default_factory=_SturdyClient)
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
        info: dict[str, Any] = self.client._server_info
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
        except nats.errors.Error as error:
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
        except nats.errors.NoRespondersError:
            self.denials.answered(subject)
            return Frame(subject, "", {"Status": "503", "Description": "No Responders"}, b"")
        except (nats.errors.Error, TimeoutError) as error:
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
        except nats.errors.Error as error:
            raise self._translate(error, subject) from error
        self.client.handlers[subscription._id] = handler

        async def unsubscribe() -> None:
            """Stop, but hand over what the server has sent by now."""
            try:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    async with asyncio.timeout(2):
                        if self.client.is_connected:
                            await subscription.drain()  # type: ignore[no-untyped-call]
                            return
                with contextlib.suppress(nats.errors.Error):
                    await subscription.unsubscribe()
            finally:
                self.client.handlers.pop(subscription._id, None)

        return unsubscribe

    async def flush(self) -> None:
        """Return when the server has read all that was sent."""
        self.opened.check()
        try:
            await heeding(self.client.flush(max(1, int(self.request_timeout.total_seconds()))))
        except nats.errors.Error as error:
            raise self._translate(error, "flush") from error

    async def close(self) -> None:
        """Send what is buffered, and close. Idempotent."""
        if self._deaf is not None:
            self._deaf.cancel()
        if not self.client.is_closed:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                if self.client.is_connected:
                    await self.client.flush(1)
            with contextlib.suppress(nats.errors.Error, OSError):
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
            lost = self.client._process_op_err(nats.errors.Error(str(denial)))
            self._mending = asyncio.ensure_future(lost)

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
    (nats.errors.MaxPayloadError, ConfigError),
    (nats.errors.BadSubjectError, ConfigError),
    (nats.errors.BadHeaderError, ConfigError),
    (TimeoutError, BrokerUnavailable),
    (nats.errors.ConnectionClosedError, BrokerUnavailable),
    (nats.errors.OutboundBufferLimitError, BrokerUnavailable),
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
                telemetry.emit(Disconnected(str(error)))
            await asyncio.sleep(backoff.delay(attempt).total_seconds())
        else:
            connection._connected_once = True
            if attempt:
                telemetry.emit(Reconnected(connection.server_info().url))
            return connection


async def _connect_to_any(settings: NatsSettings, telemetry: Telemetry, name: str) -> Connection:
    options = client_options(settings)
    servers = random.sample(settings.servers, len(settings.servers))
    failures: list[SeawayError] = []
    for server in servers:
        connection = Connection(settings, telemetry, _SturdyClient(options))
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
    except (nats.errors.Error, OSError) as error:  # A TimeoutError is one.
        await _give_up(client)
        cause: BaseException = seen[-1] if seen else error
        while cause.__cause__ is not None and isinstance(cause, nats.errors.Error):
            cause = cause.__cause__
        attempt = Attempt(
            server.url,
            client.socket.step,
            known=options.known,
            certified=options.certified,
            asked=bool(client._server_info.get("tls_verify")),
            tls_first=settings.tls_first,
        )
        raise refusal(attempt, cause) from error
    except BaseException:
        await _give_up(client)
        raise
    client._setup_server_pool(others)
    # A first connection that fails is the caller's to know; a lost one is ours to mend, for ever.
    client.options["allow_reconnect"] = True
    client.options["max_reconnect_attempts"] = -1


async def _give_up(client: _SturdyClient) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            await client.close()
