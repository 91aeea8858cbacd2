"""``Follower``: an audit that goes on, and looks only at what is new.

Owns: up to where nothing was on its way, and the findings that are still so. Guarantees: a look
begins a minute before what was on its way at the last one. It begins at the beginning where a
stream is not what it was (made anew, gone back, more holes) and once an hour, since nothing else
would find what was lost of what had been proven. A finding stays until a look finds it mended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from seaway.contracts import StreamInfo
from seaway.history.audit import Audit, Progress
from seaway.history.findings import MOST, Finding, Report
from seaway.history.stations import queues
from seaway.naming import stream_context

WHOLE = timedelta(hours=1)
_OVERLAP = timedelta(minutes=1)

_Shape: TypeAlias = tuple[str, int, int]
"""When a stream was made, its last place, its holes."""


class Follower:
    """Looks again and again with ``audit``."""

    def __init__(self, audit: Audit, *, since: datetime | None = None) -> None:
        self.audit = audit
        self.report: Report | None = None
        """What is so by now; ``None`` before the first look."""
        self._since = since
        self._settled: datetime | None = None
        self._whole_at: datetime | None = None
        self._shapes: dict[str, _Shape] = {}

    async def look(self, progress: Progress | None = None) -> Report:
        """Look once more; all that is so by now."""
        began = datetime.now(UTC)
        shapes = await self._shapes_now()
        whole = (
            self._settled is None
            or self._whole_at is None
            or began - self._whole_at >= WHOLE
            or shapes is None
            or any(_changed(self._shapes.get(name), now) for name, now in shapes.items())
        )
        since = self._since if whole or self._settled is None else self._settled - _OVERLAP
        found = await self.audit.look(since=since, progress=progress)
        if not whole and self.report is not None and since is not None:
            await self._keep(self.report, found, since)
        if not found.away:
            if whole:
                self._whole_at = began
            self._shapes = shapes or {}
            self._settled = found.settled
        self.report = found
        return found

    async def _shapes_now(self) -> dict[str, _Shape] | None:
        report = Report(datetime.now(UTC))
        broker = await self.audit.open_server(report)
        if broker is None:
            return None
        streams = () if self.audit.settings.streams else await broker.admin.streams()
        infos = [await broker.admin.stream(name) for name in self.audit.names(streams)]
        return {info.name: _shape(info) for info in infos if info is not None}

    async def _keep(self, before: Report, found: Report, since: datetime) -> None:
        """What was found before the window of this look, and is still so."""
        old = [one for one in before.findings if one.at is not None and one.at < since]
        if not old:
            return
        if len(old) >= MOST or before.counts.total() > len(before.findings):
            self._whole_at = None  # Too many to be asked for singly.
        known = {(one.kind, one.consumer, one.event_id) for one in found.findings}
        for one in old:
            if (one.kind, one.consumer, one.event_id) in known:
                continue
            if found.away or await self._stands(one):
                found.add(one)
        found.prove()

    async def _stands(self, one: Finding) -> bool:
        report = Report(datetime.now(UTC))
        broker = await self.audit.open_server(report)
        store = await self.audit.open_store(report)
        if broker is None or store is None:
            return True
        admin = broker.admin
        if one.kind == "missing":
            known = (await store.committed([one.event_id])).get(one.event_id)
            if known is None or known.stream_seq < 0:
                return known is not None
            there = await admin.get(one.stream, known.stream_seq)
            return there is None or there.event_id != one.event_id
        if one.kind in ("foreign", "twice"):
            there = await admin.get(one.stream, one.stream_seq)
            return there is not None and there.event_id == one.event_id
        if one.kind == "no_effect":
            if await store.claimed(one.consumer, [one.event_id]):
                return False
            waits = await queues(broker, stream_context(one.stream), [one.consumer])
            return one.event_id not in waits.waits(one.consumer)
        queue, _, place = one.letter.partition(":")
        there = await admin.get(queue, int(place))
        return there is not None and there.event_id == one.event_id


def _shape(info: StreamInfo) -> _Shape:
    return info.created, info.last_seq, info.num_deleted


def _changed(before: _Shape | None, now: _Shape) -> bool:
    """Whether it is not the same stream, only longer."""
    if before is None:
        return True
    return before[0] != now[0] or now[1] < before[1] or now[2] > before[2]
