"""Streams, consumers and stored messages through JetStream's API (``contracts.BrokerAdmin``)."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime

from seaway import headers as h
from seaway.brokers.jetstream.api import Api, consumer_info, stream_info
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.reading import Reader
from seaway.brokers.jetstream.wire import headers, subject_text
from seaway.contracts import (
    JSON,
    REWINDS_SINCE,
    ConsumerInfo,
    Granted,
    Message,
    ServerInfo,
    StoredMessage,
    StreamInfo,
)
from seaway.errors import ApiError, BrokerUnavailable, CannotRewind, NotFound
from seaway.naming import OPERATOR, OWN_RIGHTS, covers


class JetStreamAdmin:
    """``contracts.BrokerAdmin`` on a real server (>= 2.9)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = Api(connection)

    async def server_info(self) -> ServerInfo:
        return self._connection.server_info()

    async def granted(self) -> Granted:
        answer = await self._connection.request(OWN_RIGHTS)
        try:
            if answer.status == "503":
                raise ValueError("nobody answers")
            found = json.loads(answer.data)["data"].get("permissions") or {}
            allowed = {verb: found.get(verb) or {} for verb in ("publish", "subscribe")}
            lists = {
                (verb, how): tuple(one.split()[0] for one in said.get(how) or ())
                for verb, said in allowed.items()
                for how in ("allow", "deny")
            }
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise BrokerUnavailable(f"{OWN_RIGHTS}: the server does not say it: {error}") from error
        return Granted(
            publish=lists["publish", "allow"] or None,
            subscribe=lists["subscribe", "allow"] or None,
            deny_publish=lists["publish", "deny"],
            deny_subscribe=lists["subscribe", "deny"],
        )

    # ------------------------------------------------------------------ streams

    async def streams(self) -> Sequence[StreamInfo]:
        return [stream_info(one) for one in await self._api.pages("STREAM.LIST", "streams")]

    async def stream(self, name: str, *, subjects: str | None = None) -> StreamInfo | None:
        wanted = {"subjects_filter": subjects} if subjects is not None else None
        found = await self._api.find("STREAM.INFO", name, body=wanted)
        return None if found is None else stream_info(found)

    async def create_stream(self, config: JSON) -> StreamInfo:
        return stream_info(await self._api.call(f"STREAM.CREATE.{config['name']}", config))

    async def update_stream(self, config: JSON) -> StreamInfo:
        return stream_info(await self._api.call(f"STREAM.UPDATE.{config['name']}", config))

    async def delete_stream(self, name: str) -> bool:
        return await self._api.find("STREAM.DELETE", name) is not None

    # ------------------------------------------------------------------ consumers

    async def consumers(self, stream: str) -> Sequence[ConsumerInfo]:
        found = await self._api.pages(f"CONSUMER.LIST.{stream}", "consumers")
        return [consumer_info(one) for one in found]

    async def consumer(self, stream: str, durable: str) -> ConsumerInfo | None:
        found = await self._api.find("CONSUMER.INFO", stream, durable)
        return None if found is None else consumer_info(found)

    async def create_consumer(self, stream: str, config: JSON) -> ConsumerInfo:
        return await self._write_consumer(stream, config, "create")

    async def update_consumer(self, stream: str, config: JSON) -> ConsumerInfo:
        return await self._write_consumer(stream, config, "update")

    async def delete_consumer(self, stream: str, durable: str) -> bool:
        return await self._api.find("CONSUMER.DELETE", stream, durable) is not None

    async def reset_consumer(self, stream: str, durable: str, to: int | None = None) -> bool:
        server = self._connection.server_info()
        if () < server.release < REWINDS_SINCE and not server.elsewhere:
            raise CannotRewind(
                f"nats-server {server.version} cannot do it: upgrade to 2.14 or newer"
            )
        # Of a durable that it does not know a server says nothing.
        if await self.consumer(stream, durable) is None:
            return False
        body: JSON | None = None if to is None else {"seq": to}
        try:
            await self._api.call(f"CONSUMER.RESET.{stream}.{durable}", body)
        except ApiError as error:
            raise CannotRewind(str(error)) from error
        return True

    async def pause_consumer(self, stream: str, durable: str, until: datetime | None) -> bool:
        body = {} if until is None else {"pause_until": h.format_time(until)}
        return await self._api.find("CONSUMER.PAUSE", stream, durable, body=body) is not None

    async def _write_consumer(self, stream: str, config: JSON, action: str) -> ConsumerInfo:
        name = config.get("durable_name") or config["name"]
        body = {"stream_name": stream, "config": config, "action": action}
        return consumer_info(await self._api.call(f"CONSUMER.CREATE.{stream}.{name}", body))

    # ------------------------------------------------------------------ messages

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        # The server takes 0 for a question that was not asked.
        return await self._get(stream, {"seq": stream_seq}) if stream_seq > 0 else None

    async def _get(self, stream: str, wanted: JSON) -> StoredMessage | None:
        answer = await self._api.find("STREAM.MSG.GET", stream, body=wanted)
        if answer is None:
            return None
        found = answer["message"]
        message = Message(
            subject_text(found["subject"]),
            base64.b64decode(found.get("data", "")),
            headers(base64.b64decode(found.get("hdrs", ""))),
        )
        return StoredMessage(message, stream, int(found["seq"]), h.parse_time(found["time"]))

    async def delete_message(self, stream: str, stream_seq: int) -> bool:
        wanted = {"seq": stream_seq, "no_erase": True}
        answer = await self._api.find("STREAM.MSG.DELETE", stream, body=wanted)
        return answer is not None and bool(answer.get("success"))

    async def read(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int | None = None,
        from_time: datetime | None = None,
        headers_only: bool = False,
        reader: str = OPERATOR,
    ) -> AsyncGenerator[StoredMessage, None]:
        info = await self.stream(stream)
        if info is None:
            raise NotFound(f"there is no stream {stream}")
        last_seq = info.last_seq
        if last_seq == 0 or (from_seq is not None and from_seq > last_seq):
            return
        if info.retention == "workqueue":
            # A work queue admits no second reader (err_code 10084): look at each message instead.
            next_seq = from_seq or 1
            wanted = filter_subjects[0] if len(filter_subjects) == 1 else ">"
            while next_seq <= last_seq:
                found = await self._get(stream, {"seq": next_seq, "next_by_subj": wanted})
                if found is None or found.stream_seq > last_seq:
                    return
                next_seq, subject = found.stream_seq + 1, found.message.subject
                if from_time is not None and found.stored_at < from_time:
                    continue
                if not filter_subjects or any(covers(one, subject) for one in filter_subjects):
                    if headers_only:
                        found = replace(found, message=replace(found.message, payload=b""))
                    yield found
            return
        # Many small answers: the memory of one page, and nothing at the server between two.
        source = Reader(
            self._connection, stream, reader, filter_subjects, headers_only=headers_only
        )
        async with contextlib.aclosing(source.pages(from_seq, from_time, last_seq)) as pages:
            async for page in pages:
                for stored in page:
                    yield stored

    async def count(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int = 1,
        reader: str = OPERATOR,
    ) -> int:
        return await Reader(self._connection, stream, reader, filter_subjects).count(from_seq)
