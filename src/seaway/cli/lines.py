"""Events out of JSON lines, for ``seaway outbox add``.

Owns: what a line may hold, and the words for one that cannot be added. Guarantees: of a transaction
with a bad line nothing is written, and the line is named.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from seaway import naming
from seaway.config import StreamSettings
from seaway.contracts import Store
from seaway.errors import ConfigError, InvalidName
from seaway.events import RawEvent
from seaway.headers import parse_time
from seaway.history.replay.lines import compact
from seaway.outbox import Outbox
from seaway.words import nearest

_TEXT_FIELDS = (
    *("subject", "key", "id", "correlation_id", "causation_id", "content_type"),
    *("occurred_at", "payload_base64"),
)
_LONGEST_LINE = 64 * 1024 * 1024
_FIELDS = frozenset((*_TEXT_FIELDS, "payload", "headers"))
_REPLAYED = frozenset(("stream", "stream_seq", "stored_at", "foreign_id"))
"""Where ``seaway replay`` found it, which says nothing of the event."""


def parse_line(line: bytes) -> RawEvent:
    """The event of one line; ``ValueError`` says in one sentence what is wrong with it.

    Names, id and size are the outbox's to judge.
    """
    try:
        said = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file's fault, not the call's
    if unknown := sorted(said.keys() - _FIELDS - _REPLAYED):
        raise ValueError(f"unknown field {unknown[0]!r} (known: {', '.join(sorted(_FIELDS))})")
    if "subject" not in said:
        raise ValueError("'subject' is missing")
    if "payload" not in said and "payload_base64" not in said:
        raise ValueError("'payload' is missing")
    for name in _TEXT_FIELDS:
        if name in said and not isinstance(said[name], str):
            raise ValueError(f"{name!r} must be text")
    headers = said.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise ValueError("'headers' must be an object of texts")
    return RawEvent(
        subject=said["subject"],
        payload=_payload(said),
        key=said.get("key"),
        event_id=said.get("id"),
        correlation_id=said.get("correlation_id"),
        causation_id=said.get("causation_id"),
        occurred_at=_moment(said.get("occurred_at")),
        content_type=said.get("content_type", "application/json"),
        headers=headers,
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"'occurred_at' {text[:40]!r} is no RFC 3339 time") from error


def _payload(said: dict[str, Any]) -> bytes:
    """Its bytes. Those in base64 are exact, so what stands beside them is for whoever reads."""
    if (text := said.get("payload_base64")) is not None:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"'payload_base64' is no base64: {error}") from error
    try:
        return compact(said["payload"])
    except UnicodeEncodeError as error:
        raise ValueError("'payload' holds half of a surrogate pair") from error
    except ValueError as error:
        raise ValueError("'payload' holds a number that is out of range") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name}")


async def add_chunk(
    outbox: Outbox,
    store: Store,
    file: Path,
    chunk: list[tuple[int, bytes]],
    streams: Sequence[StreamSettings],
) -> None:
    """Write all lines of ``chunk`` in one transaction; ``ConfigError`` names the first bad one.

    ``streams``: of which one must take each subject; empty: that is not known here.
    """
    events = []
    for number, line in chunk:
        try:
            event = parse_line(line)
            if streams:
                _refuse_untaken(event.subject, streams)
            events.append(event)
        except ValueError as error:
            raise _refusal(file, number, chunk, error) from error
    try:
        async with store.transaction() as tx:
            await outbox.add(tx.handle, *events)
        return
    except ConfigError:
        pass  # Nothing is written. Once more one by one, in order, to learn which line it was.
    async with store.transaction() as tx:
        for (number, _), event in zip(chunk, events, strict=True):
            try:
                await outbox.add(tx.handle, event)
            except ConfigError as error:
                raise _refusal(file, number, chunk, error) from error


def _refuse_untaken(subject: str, streams: Sequence[StreamSettings]) -> None:
    """``ValueError`` where no stream takes ``subject``: it would wait until it is parked."""
    try:
        context = naming.EventSubject.parse(subject).context
    except InvalidName:
        return  # The outbox says what is wrong with it.
    if any(naming.covers(one, subject) for stream in streams for one in stream.subjects):
        return
    for stream in streams:
        if stream.context == context:
            what = f"{stream.name} takes only {', '.join(stream.subjects)}"
            break
    else:
        contexts = [stream.context for stream in streams]
        near = nearest(context, contexts, cutoff=0.5)
        what = f"did you mean the context {near}?" if near else f"contexts: {', '.join(contexts)}"
    raise ValueError(
        f"no stream of the file takes {subject!r}: {what} "
        "(--any-subject adds it all the same, for a relay with another file)"
    )


def _refusal(
    file: Path, number: int, chunk: list[tuple[int, bytes]], error: Exception
) -> ConfigError:
    first = chunk[0][0]
    return ConfigError(
        str(error),
        where=f"{file}:{number}",
        hint=f"nothing from line {first} on is written: mend it, then --from-line {first}",
    )


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        found = file.open("rb")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    with found:
        yield found


async def _lines(source: BinaryIO) -> AsyncIterator[bytes]:
    """The lines of ``source``. What nobody has written yet is awaited: Ctrl-C ends the wait."""
    mode = os.fstat(source.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or source.isatty()):
        for line in source:
            yield line
        return
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source
    )
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


async def chunks(
    source: BinaryIO, size: int, from_line: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The numbered lines of ``source``, ``size`` at a time; blank ones are passed over."""
    chunk: list[tuple[int, bytes]] = []
    number = 0
    async for line in _lines(source):
        number += 1
        if number < from_line or not line.strip():
            continue
        chunk.append((number, line))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
