"""nats-py's client, made to last; the one module that imports it, or knows its private names.

Owns: what of the client had to be done otherwise, for which it overrides methods and reads fields
that are no promise of nats-py's: ``pyproject.toml`` admits the one minor version that has them, and
``tests/unit/test_private_names.py`` fails where one is gone. Must not know JetStream, nor settings
beyond ``ClientOptions``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import Parser

from seaway.brokers.jetstream.frames import Frame, cut, frame
from seaway.brokers.jetstream.options import ClientOptions, Login
from seaway.brokers.jetstream.refusals import no_tls
from seaway.brokers.jetstream.transport import Transport
from seaway.config import WEB_SCHEMES
from seaway.errors import ConfigError

__all__ = ["FrameHandler", "Msg", "SturdyClient", "errors"]

logging.getLogger("nats").setLevel(logging.CRITICAL)  # Everything it says reaches our error_cb.

FrameHandler: TypeAlias = Callable[[Frame], None]


class SturdyClient(Client):
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

    @property
    def said(self) -> dict[str, Any]:
        """What the server said of itself (INFO) when this connection was made."""
        said: dict[str, Any] = self._server_info
        return said

    def hear(self, subscription: Subscription, handler: FrameHandler) -> Callable[[], None]:
        """Have ``handler`` called with what comes for it, until the returned call."""
        self.handlers[subscription._id] = handler

        def forget() -> None:
            self.handlers.pop(subscription._id, None)

        return forget

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
        login = self._seaway.logins.get((s.uri.hostname, s.uri.port), self._seaway.login)
        self.options.update(user=login.user, password=login.password, token=login.token)
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        try:
            return super()._connect_command()
        except ConfigError as error:
            # Any other than the client's own would end its reconnecting.
            raise errors.Error(str(error)) from error

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._seaway.tls is not None:
            # Else it would go on without, and say in the open who we are.
            offered = info.get("tls_required") or info.get("tls_available")
            assert self._current_server is not None
            uri = self._current_server.uri
            if not offered and not self.options["tls_handshake_first"] and uri.scheme != "wss":
                error = no_tls(f"{uri.scheme}://{uri.hostname}:{uri.port}")
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
            error = errors.Error(f"nats: {text}")
            await self._error_cb(error)
            if "permissions violation" not in text.lower():
                await self._process_op_err(error)
            return
        await super()._process_err(str(err_msg).lower())


class _Reader(Parser):
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
