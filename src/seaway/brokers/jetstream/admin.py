"""Streams, consumers and stored messages through JetStream's API (``contracts.BrokerAdmin``)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from seaway import headers as h
from seaway.brokers.jetstream import api as codes
from seaway.brokers.jetstream.api import Api
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.frames import headers, subject_text
from seaway.brokers.jetstream.pull import Pull
from seaway.contracts import JSON, Message, ServerInfo, StoredMessage
from seaway.errors import ApiError, BrokerUnavailable, NotFound
from seaway.naming import covers, is_name

_PAGE = 500
_PAGE_TIMEOUT = timedelta(seconds=5)
_INACTIVE_NANOSECONDS = 60 * 10**9


class JetStreamAdmin:
    """``contracts.BrokerAdmin`` on a real server (>= 2.9)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = Api(connection)

    async def server_info(self) -> ServerInfo:
        return self._connection.server_info()

    async def _find(
        self, asked: tuple[str, *tuple[str, ...]], *missing: int, body: JSON | None = None
    ) -> JSON | None:
        """Ask the API about the stream or durable that follows; ``None`` where it is missing.

        Nothing but a name is sent as one: letters and advisories bring what a stranger wrote.
        """
        call, *names = asked
        if not all(map(is_name, names)):
            return None
        return await self._api.find(".".join((call, *names)), *missing, body=body)

    # ------------------------------------------------------------------ streams

    async def streams(self) -> Sequence[JSON]:
        return await self._api.pages("STREAM.LIST", "streams")

    async def stream(self, name: str, *, subjects: str | None = None) -> JSON | None:
        wanted = None if subjects is None else {"subjects_filter": subjects}
        return await self._find(("STREAM.INFO", name), codes.STREAM_NOT_FOUND, body=wanted)

    async def create_stream(self, config: JSON) -> JSON:
        return await self._api.call(f"STREAM.CREATE.{config['name']}", config)

    async def update_stream(self, config: JSON) -> JSON:
        return await self._api.call(f"STREAM.UPDATE.{config['name']}", config)

    async def delete_stream(self, name: str) -> bool:
        answer = await self._api.find(f"STREAM.DELETE.{name}", codes.STREAM_NOT_FOUND)
        return answer is not None

    # ------------------------------------------------------------------ consumers

    async def consumers(self, stream: str) -> Sequence[JSON]:
        return await self._api.pages(f"CONSUMER.LIST.{stream}", "consumers")

    async def consumer(self, stream: str, durable: str) -> JSON | None:
        return await self._find(
            ("CONSUMER.INFO", stream, durable), codes.CONSUMER_NOT_FOUND, codes.STREAM_NOT_FOUND
        )

    async def create_consumer(self, stream: str, config: JSON) -> JSON:
        return await self._write_consumer(stream, config, "create")

    async def update_consumer(self, stream: str, config: JSON) -> JSON:
        return await self._write_consumer(stream, config, "update")

    async def delete_consumer(self, stream: str, durable: str) -> bool:
        answer = await self._api.find(
            f"CONSUMER.DELETE.{stream}.{durable}",
            codes.CONSUMER_NOT_FOUND,
            codes.STREAM_NOT_FOUND,
        )
        return answer is not None

    async def _write_consumer(self, stream: str, config: JSON, action: str) -> JSON:
        name = config.get("durable_name") or config["name"]
        body = {"stream_name": stream, "config": config, "action": action}
        return await self._api.call(f"CONSUMER.CREATE.{stream}.{name}", body)

    # ------------------------------------------------------------------ messages

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        # The server takes 0 for a question that was not asked.
        return await self._get(stream, {"seq": stream_seq}) if stream_seq > 0 else None

    async def _get(self, stream: str, wanted: JSON) -> StoredMessage | None:
        answer = await self._find(
            ("STREAM.MSG.GET", stream),
            codes.MESSAGE_NOT_FOUND,
            codes.STREAM_NOT_FOUND,
            body=wanted,
        )
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
        answer = await self._find(
            ("STREAM.MSG.DELETE", stream),
            codes.MESSAGE_NOT_FOUND,
            codes.STREAM_NOT_FOUND,
            10057,  # "message delete failed": it was not there
            10043,  # the same, by its sequence
            body={"seq": stream_seq, "no_erase": True},
        )
        return answer is not None and bool(answer.get("success"))

    async def read(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int | None = None,
        from_time: datetime | None = None,
        headers_only: bool = False,
    ) -> AsyncGenerator[StoredMessage, None]:
        info = await self.stream(stream)
        if info is None:
            raise NotFound(f"there is no stream {stream}")
        last_seq = int(info["state"]["last_seq"])
        if last_seq == 0 or (from_seq is not None and from_seq > last_seq):
            return
        if info["config"].get("retention") == "workqueue":
            # A work queue admits no second reader (err_code 10084): look at each message instead.
            async for stored in self._look_through(
                stream, filter_subjects, from_seq, from_time, headers_only, last_seq
            ):
                yield stored
            return
        next_seq = from_seq
        while next_seq is None or next_seq <= last_seq:
            reader = self._read_on(
                stream, filter_subjects, next_seq, from_time, headers_only, last_seq
            )
            try:
                async with contextlib.aclosing(reader):
                    async for stored in reader:
                        next_seq = stored.stream_seq + 1
                        yield stored
                return
            except NotFound:
                # A server's restart forgets readers, and so does a caller's pause of a minute.
                if await self.stream(stream) is None:
                    raise

    async def _read_on(
        self,
        stream: str,
        filter_subjects: Sequence[str],
        from_seq: int | None,
        from_time: datetime | None,
        headers_only: bool,
        last_seq: int,
    ) -> AsyncGenerator[StoredMessage, None]:
        """Through a consumer of its own; ``NotFound`` where the server has lost that."""
        name = f"seaway_read_{uuid.uuid4().hex}"
        config: JSON = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "all",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_NANOSECONDS,
            "headers_only": headers_only,
        }
        if from_seq is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, from_seq)}
        elif from_time is not None:
            start = h.format_time(from_time)
            config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
        if len(filter_subjects) == 1:
            config["filter_subject"] = filter_subjects[0]
        elif filter_subjects:
            config["filter_subjects"] = list(filter_subjects)
        created = await self.create_consumer(stream, config)
        try:
            if int(created.get("num_pending", 0)) == 0:
                return
            async with Pull(self._connection, stream, name) as pull:
                while True:
                    batch = await pull.next(_PAGE, timeout=_PAGE_TIMEOUT)
                    for incoming in batch:
                        if incoming.stream_seq > last_seq:
                            return
                        yield incoming
                        if incoming.pending == 0 or incoming.stream_seq == last_seq:
                            return
                    if not batch and await self._is_drained(stream, name):
                        return
        finally:
            # Also where the reader is cancelled: otherwise the server keeps it for a minute.
            await asyncio.shield(self._drop(stream, name))

    async def _look_through(
        self,
        stream: str,
        filter_subjects: Sequence[str],
        from_seq: int | None,
        from_time: datetime | None,
        headers_only: bool,
        last_seq: int,
    ) -> AsyncGenerator[StoredMessage, None]:
        next_seq = from_seq or 1
        while next_seq <= last_seq:
            found = await self._get(stream, {"seq": next_seq, "next_by_subj": ">"})
            if found is None or found.stream_seq > last_seq:
                return
            next_seq = found.stream_seq + 1
            subject = found.message.subject
            if from_time is not None and found.stored_at < from_time:
                continue
            if filter_subjects and not any(covers(one, subject) for one in filter_subjects):
                continue
            yield (
                replace(found, message=replace(found.message, payload=b""))
                if (headers_only)
                else found
            )

    async def _drop(self, stream: str, name: str) -> None:
        with contextlib.suppress(BrokerUnavailable, ApiError):
            await self.delete_consumer(stream, name)

    async def _is_drained(self, stream: str, name: str) -> bool:
        info = await self.consumer(stream, name)
        if info is None:
            raise NotFound(f"reading {stream} was interrupted: its consumer is gone")
        return int(info.get("num_pending", 0)) == 0
