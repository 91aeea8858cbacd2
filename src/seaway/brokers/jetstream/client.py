"""nats-py's client and the socket under it, hardened; the one module that imports ``nats``, or
knows its private names.

Owns: what of the client had to be done otherwise, for which it overrides methods and reads fields
that are no promise of nats-py's: ``pyproject.toml`` admits the one minor version that has them, and
``tests/unit/test_private_names.py`` fails where one is gone. Must not know JetStream, nor settings
beyond ``Credentials``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import ParseResult

from nats import errors as errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import Parser

from seaway.brokers.jetstream.credentials import Credentials
from seaway.brokers.jetstream.wire import Frame, cut, frame
from seaway.config import WEB_SCHEMES
from seaway.errors import ConfigError

logging.getLogger("nats").setLevel(logging.CRITICAL)  # Everything it says reaches our error_cb.

FrameHandler: TypeAlias = Callable[[Frame], None]
Step: TypeAlias = Literal["reaching", "greeting", "tls", "login"]

_GOODBYE_SECONDS = 1


class SturdyClient(Client):
    """nats-py's client, where a foreign message or a server's complaint would end it.

    Its read loop ends on a header block or a subject that it cannot decode, and goes on looking
    connected; a stream would redeliver such a message for ever. And any ``-ERR`` but two closes it
    for good, where connecting again is what heals. It also keeps what was not flushed for the next
    connection, reads with a search for each message and two moves of all that is behind it, hands
    each over through a queue and a task, and encodes and flushes each publication by itself: here
    none of that is done. (nats-py 2.16; all methods are its own.)
    """

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self.credentials = credentials
        self.socket = Transport()
        self._auth_configured = credentials.known
        if credentials.keys is not None:
            self._public_nkey = credentials.keys.public
        self._ps = _Parser(self)
        self.handlers: dict[int, FrameHandler] = {}
        """By subscription id: called at once, without a task's turn for each message."""

    def write(self, frames: Sequence[bytes]) -> None:
        """Hand ``frames`` to the socket, behind what waits to be flushed. Only while connected."""
        assert self._transport is not None
        self._transport.write(b"".join((*self._pending, *frames)))
        self._pending = []
        self._pending_data_size = 0

    @property
    def said(self) -> dict[str, Any]:
        """What the server said of itself (INFO) when this connection was made."""
        said: dict[str, Any] = self._server_info
        return said

    def hear(self, subscription: Subscription, handler: FrameHandler) -> Callable[[], object]:
        """Have ``handler`` called with what comes for it, until the returned call."""
        self.handlers[subscription._id] = handler
        return partial(self.handlers.pop, subscription._id, None)

    async def lose(self, reason: str) -> None:
        """Give this connection up, and make another."""
        await self._process_op_err(errors.Error(reason))

    def last(self, others: list[str]) -> None:
        """Reconnect for ever from now on, to these servers too."""
        self._setup_server_pool(others)
        self.options.update(allow_reconnect=True, max_reconnect_attempts=-1)

    async def written(self) -> None:
        """Return when the socket takes more. ``OSError`` where it is lost."""
        assert self._transport is not None
        await self._transport.drain()  # type: ignore[no-untyped-call]

    async def _connect_to_server(self, s: Any) -> None:
        if s.uri.scheme not in WEB_SCHEMES:
            self._transport = cast(Any, self.socket)
        login = self.credentials.logins.get((s.uri.hostname, s.uri.port), self.credentials.login)
        self.options.update(user=login.user, password=login.password, token=login.token)
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        try:
            return super()._connect_command()
        except ConfigError as error:
            # Any other than the client's own would end its reconnecting.
            raise errors.Error(str(error)) from error

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.credentials.tls is not None:
            # Else it would go on without, and say in the open who we are.
            offered = info.get("tls_required") or info.get("tls_available")
            assert self._current_server is not None
            uri = self._current_server.uri
            if not offered and not self.options["tls_handshake_first"] and uri.scheme != "wss":
                error = ConfigError(
                    f"{uri.scheme}://{uri.hostname}:{uri.port} offers no TLS",
                    hint="nats:// without tls_ca, tls_cert and tls_key, if that is meant",
                )
                raise errors.Error(str(error)) from error
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

    async def _process_err(self, err_msg: str) -> None:
        text = str(err_msg).strip("'")
        if self.is_connected and "stale" not in text.lower():
            error = errors.Error(f"nats: {text}")
            await self._error_cb(error)
            if "permissions violation" not in text.lower():
                await self._process_op_err(error)
            return
        await super()._process_err(str(err_msg).lower())


class _Parser(Parser):
    """Reads what arrives for ``SturdyClient``: a chunk's messages in one go, other lines as ever.

    Guarantees: a message that comes in many chunks is put together once, however long it is.
    """

    def __init__(self, client: SturdyClient) -> None:
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
                raise errors.ProtocolError from error
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
                pass  # Nobody listens any more.
            elif found.data.startswith(b"-ERR"):
                # The client's own reading makes subjects lower case.
                await self._client._process_err(found.data[4:].decode("utf-8", "replace").strip())
            else:
                await super().parse(found.data)
            if self._resets != resets:
                return  # The connection that this came from is no more.
        self._chunks = [received[place:]]
        self._held, self._lacking = len(self._chunks[0]), found


class NotNats(ConnectionError):
    """What answers there does not speak as a NATS server does."""


class _Stream(asyncio.StreamReader):
    """Keeps what has come when the connection is lost: the reason stands there."""

    lost: BaseException | None = None
    come = 0
    """How many bytes, ever."""

    def feed_data(self, data: Any) -> None:
        self.come += len(data)
        super().feed_data(data)

    def set_exception(self, exc: BaseException) -> None:
        self.lost = exc
        self.feed_eof()


class Transport:
    """The socket, TLS included, in the place of the client's own: one connection at a time.

    It knows how far that has come (``step``). What the server said before it closed can be read,
    and closing takes a second at the most, whatever the other side does or does not. (nats-py 2.16:
    its own leaves a failed TLS handshake unfinished and waits for that for ever, and loses the
    server's last line where the connection is cut behind it.)
    """

    def __init__(self) -> None:
        self._reader: _Stream | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._held = b""
        self._greeted = 0
        self.step: Step = "reaching"

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """To ``uri``'s host and port. ``OSError``, a ``TimeoutError`` too."""
        assert uri.hostname is not None
        assert uri.port is not None
        self._abort()
        self.step, self._held, self._greeted = "reaching", b"", 0
        loop = asyncio.get_running_loop()
        reader = _Stream(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(connect_timeout):
            transport, _ = await loop.create_connection(lambda: protocol, uri.hostname, uri.port)
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.step = "greeting"

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Go on with TLS. ``OSError`` (an ``ssl.SSLError`` is one), a ``TimeoutError`` too."""
        assert self._writer is not None
        assert self._reader is not None
        if self._reader.come > self._greeted:
            # Kept, it would be read as if it had come under TLS: anybody may have said it.
            self._abort()
            raise ssl.SSLError(1, "it speaks in the open first")
        before, self.step = self.step, "tls"
        host = uri if isinstance(uri, str) else uri.hostname
        try:
            await self._writer.start_tls(
                ssl_context, server_hostname=host, ssl_handshake_timeout=connect_timeout
            )
        except BaseException:
            self._abort()  # Its protocol hears of no end any more: closing it would wait for ever.
            raise
        self.step = before

    def write(self, payload: bytes) -> None:
        """Hand over. CONNECT waits for the PING behind it: a server that refuses the one closes,
        and the other, sent alone, would cost us what it said."""
        if payload.startswith(b"CONNECT "):
            self._held = payload
        elif self._writer is not None and not self._writer.is_closing():  # Lost: uvloop raises.
            self._writer.write(self._held + payload if self._held else payload)
            self._held = b""

    def writelines(self, payload: Sequence[bytes]) -> None:
        """Hand over all."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Until the socket takes more. ``OSError`` where it is lost."""
        if self._writer is not None:
            await self._writer.drain()

    async def read(self, buffer_size: int) -> bytes:
        """What has come; empty at the end."""
        assert self._reader is not None
        return await self._reader.read(buffer_size)

    async def readline(self) -> bytes:
        """One line of what is said before messages may come. ``OSError`` where none comes."""
        assert self._reader is not None
        try:
            line = await self._reader.readline()
        except ValueError:
            raise NotNats("it sends no lines") from None
        if not line:
            raise self._reader.lost or ConnectionResetError("it closes the connection")
        if self.step == "greeting":
            if not line.startswith(b"INFO {"):
                raise NotNats(f"it says {line[:40]!r}")
            self.step, self._greeted = "login", len(line)
        return line

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return self._reader is None or self._reader.at_eof()

    def close(self) -> None:
        """Begin to close, behind what was written."""
        if self._writer is not None:
            self._writer.close()

    async def wait_closed(self) -> None:
        """Until it is closed; what the other side does not take by then is dropped."""
        if self._writer is None:
            return
        with contextlib.suppress(OSError):  # A TimeoutError is one.
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._writer.wait_closed()
        self._abort()

    def _abort(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()


def describe(error: BaseException) -> str:
    """``error`` in the words of whoever raised it, without what is ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None):
        return error.reason.replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    text = str(error).removeprefix("nats: ")
    if text[:1] == text[-1:] == "'":
        text = text[1:-1]
    return text or type(error).__name__
