"""Which part of a stream is replayed, and reading it.

Owns: what two bounds mean on the stream as it is now. Only reads. Once a window is made it is two
sequences, so that what comes meanwhile does not move it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from seaway.contracts import BrokerAdmin, StoredMessage, StreamInfo
from seaway.errors import ConfigError, NotFound
from seaway.headers import format_time
from seaway.history.stations import place_at
from seaway.naming import OPERATOR, check_filter

Bound: TypeAlias = int | datetime | None
"""A sequence, a time, or as far as there is something."""


@dataclass(frozen=True, slots=True)
class Window:
    """Messages of a stream from ``first`` to ``last``, both included, whose subject one of
    ``filters`` covers (none: all), and of an ordering ``key`` where that is given. Empty where
    ``first`` is behind ``last``."""

    stream: str
    first: int
    last: int
    filters: tuple[str, ...] = ()
    key: str | None = None
    lacking: str = ""
    """What was asked for and is not there any more, in words."""

    async def count(self, admin: BrokerAdmin, *, after: int = 0) -> int:
        """How many messages lie in it, of whichever key, behind the sequence ``after``. Constant
        cost."""
        first = max(self.first, after + 1)
        if first > self.last:
            return 0
        counts = [
            await admin.count(self.stream, filter_subjects=self.filters, from_seq=one)
            for one in (first, self.last + 1)
        ]
        return max(0, counts[0] - counts[1])


async def window_of(
    admin: BrokerAdmin,
    stream: str,
    *,
    since: Bound = None,
    until: Bound = None,
    filters: Sequence[str] = (),
    key: str | None = None,
) -> Window:
    """What these bounds mean now. A sequence ``until`` is included, a time is not.

    ``NotFound`` where there is no such stream. ``ConfigError`` for bounds of two kinds, for a
    window that ends before it begins, or that begins where nothing is yet.
    """
    if isinstance(since, int) and isinstance(until, datetime):
        raise _two_kinds("a sequence", "a time")
    if isinstance(since, datetime) and isinstance(until, int):
        raise _two_kinds("a time", "a sequence")
    for bound in (since, until):
        if isinstance(bound, int) and bound < 1:
            raise ConfigError(f"{bound} is no sequence: the first message of a stream is 1")
    taken = tuple(map(check_filter, filters))
    info = await admin.stream(stream)
    if info is None:
        raise NotFound(f"there is no stream {stream}")
    if since is not None and until is not None and _is_after(since, until):
        raise ConfigError(
            f"the window ends before it begins: from {_said(since)} to {_said(until)}"
        )
    first = await _first(admin, info, since)
    last = info.last_seq
    if isinstance(until, int):
        last = min(last, until)
    elif until is not None:
        last = await place_at(admin, info, until) - 1
    return Window(stream, first, last, taken, key, _lacking(info, since, until, last))


def _two_kinds(one: str, other: str) -> ConfigError:
    return ConfigError(
        f"the window begins with {one} and ends with {other}",
        hint="give two sequences, or two times or ages",
    )


def _is_after(since: int | datetime, until: int | datetime) -> bool:
    if isinstance(since, int):
        return isinstance(until, int) and since > until
    return isinstance(until, datetime) and since >= until


async def _first(admin: BrokerAdmin, info: StreamInfo, since: Bound) -> int:
    if isinstance(since, int):
        if since > info.last_seq:
            raise ConfigError(
                f"the window begins at {since}, and {info.name} ends at {info.last_seq}"
            )
        return max(since, info.first_seq)
    if since is None:
        return max(1, info.first_seq)
    if since > datetime.now(UTC):
        raise ConfigError(f"the window begins in the future: {format_time(since)}")
    return await place_at(admin, info, since)


def _lacking(info: StreamInfo, since: Bound, until: Bound, last: int) -> str:
    begins = f"{info.name} begins at {info.first_seq}" + (
        f", stored {format_time(info.first_at)}" if info.first_at else ""
    )
    if info.messages == 0 and info.last_seq:
        return f"{info.name} is empty: its {info.last_seq} messages have expired or were purged"
    if until is not None and last < info.first_seq:
        return f"{begins}: nothing of the window is left"
    if isinstance(since, int) and since < info.first_seq:
        return f"{begins}: what lay before that has expired or was purged"
    return ""


def _said(bound: int | datetime) -> str:
    return str(bound) if isinstance(bound, int) else format_time(bound)


async def events(
    admin: BrokerAdmin,
    window: Window,
    *,
    after: int = 0,
    headers_only: bool = False,
    reader: str = OPERATOR,
) -> AsyncGenerator[StoredMessage]:
    """What lies in ``window`` behind the sequence ``after``, in order. What is deleted meanwhile
    does not come. ``BrokerUnavailable`` where the server is away for long: read on from there."""
    first = max(window.first, after + 1)
    if first > window.last:
        return
    source = admin.read(
        window.stream,
        filter_subjects=window.filters,
        from_seq=first,
        headers_only=headers_only,
        reader=reader,
    )
    # A reader that is left early must remove its consumer while it is still connected.
    async with aclosing(source) as messages:
        async for one in messages:
            if one.stream_seq > window.last:
                return
            if window.key is None or one.key == window.key:
                yield one
