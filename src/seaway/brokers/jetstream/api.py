"""JetStream's JSON API over a core connection: one request, one answer, errors by code.

Owns: the API's subjects (``$JS.API``, or those of a domain or a prefix), its envelope, paging, and
what silence means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from seaway.brokers.jetstream.codes import api_error
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.frames import Frame
from seaway.contracts import JSON
from seaway.errors import ApiError, BrokerUnavailable


class Api:
    """Requests to the JetStream API that the connection's settings name: of its account, in its own
    domain or another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def subject(self, call: str) -> str:
        """Where ``call`` (``STREAM.INFO.SEA_EVENTS``) is asked for."""
        return f"{self._connection.settings.api}.{call}"

    async def call(self, subject: str, body: JSON | None = None) -> JSON:
        """The answer's JSON, without its ``type``.

        ``ApiError`` where the server refuses, ``BrokerUnavailable`` where nobody answers.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        asked = self.subject(subject)
        return self._read(asked, await self._connection.request(asked, payload))

    async def find(self, subject: str, *missing: int, body: JSON | None = None) -> JSON | None:
        """Like ``call``; ``None`` where the server refuses with one of these err_codes."""
        try:
            return await self.call(subject, body)
        except ApiError as error:
            if error.err_code in missing:
                return None
            raise

    async def pages(self, subject: str, field: str) -> Sequence[JSON]:
        """All entries of a paged list, in the server's order."""
        found: list[JSON] = []
        while True:
            page = await self.call(subject, {"offset": len(found)})
            entries = page.get(field) or []
            found += entries
            if not entries or len(found) >= int(page.get("total", 0)):
                return found

    def _read(self, subject: str, answer: Frame) -> JSON:
        if answer.status == "503":
            settings = self._connection.settings
            if settings.jetstream_domain is not None:
                raise BrokerUnavailable(
                    f"nobody answers {subject}: no domain {settings.jetstream_domain!r} can be "
                    f"reached through {settings.redacted_url}, or its JetStream has no leader"
                )
            if settings.jetstream_api_prefix is not None:
                raise BrokerUnavailable(
                    f"nobody answers {subject}: no JetStream is under this prefix, or it has no "
                    "leader"
                )
            if not self._connection.server_info().jetstream:
                raise BrokerUnavailable(
                    f"JetStream is not enabled on {settings.redacted_url}: "
                    "start nats-server with -js"
                )
            raise BrokerUnavailable(f"nobody answers {subject}: JetStream has no leader")
        try:
            content = dict(json.loads(answer.data))
            content.pop("type", None)
            if (refusal := content.get("error")) is None:
                return content
            code, err_code = int(refusal["code"]), int(refusal.get("err_code", 0))
            words = str(refusal.get("description", "refused"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokerUnavailable(f"{subject}: the answer cannot be read") from error
        raise api_error(words, code=code, err_code=err_code)
