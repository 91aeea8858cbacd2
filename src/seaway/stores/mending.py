"""What mending dead letters leaves, in every store on an SQL database: ``contracts.MendingStore``.

PostgresStore, SqliteStore ──> RelationalStore ──> RelationalMending ──> statements.sql
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from seaway.contracts import DiscardedLetter, Message, Run, RunItem, RunState, StoredMessage
from seaway.databases import times
from seaway.databases.queries import Row, Statements, Steps

T = TypeVar("T")

_CHUNK = 500
"""How many letters, which may be large, go in one transaction."""


class RelationalMending(ABC):
    """Runs, their items, and discarded letters."""

    _sql: Statements

    @abstractmethod
    async def _read(self, name: str, **given: Any) -> Sequence[Row]:
        """What the statement ``name`` gives, in a transaction that only reads."""

    @abstractmethod
    async def _write(self, steps: Steps[T]) -> T:
        """``steps`` in a transaction of their own. A query that gives no rows is answered with one
        row: how many it touched."""

    async def _touch(self, name: str, **given: Any) -> int:
        """Run the statement ``name`` in a transaction of its own; how many rows it touched."""

        def work() -> Steps[int]:
            ((count,),) = yield self._sql.of(name, given, gives=False)
            return int(count)

        return await self._write(work())

    # ------------------------------------------------------------------- runs

    async def begin_run(self, run: Run) -> bool:
        """Write it, unless there is one of that id."""
        given = {
            "run": run.run,
            "kind": run.kind,
            "about": plain(run.about),
            "by": plain(run.by),
            "plan": json.dumps(dict(run.plan)),
            "state": run.state,
            "progress": json.dumps(dict(run.progress)),
        }

        def work() -> Steps[bool]:
            yield self._sql.of("forget_run_items", {}, gives=False)
            yield self._sql.of("forget_runs", {}, gives=False)
            ((count,),) = yield self._sql.of("begin_run", given, gives=False)
            return bool(count)

        return await self._write(work())

    async def change_run(
        self,
        run: str,
        *,
        state: RunState | None = None,
        progress: Mapping[str, Any] | None = None,
        unless_changed_since: datetime | None = None,
    ) -> bool:
        """Set what is given; whether that was done."""
        given = {
            "run": run,
            "state": state,
            "progress": None if progress is None else json.dumps(dict(progress)),
            "since": unless_changed_since,
        }
        return bool(await self._touch("change_run", **given))

    async def runs(self, kind: str | None = None, *, limit: int = 100) -> Sequence[Run]:
        """The newest first."""
        return await self._runs(kind=kind, run=None, limit=limit)

    async def run(self, run: str) -> Run | None:
        """That run."""
        found = await self._runs(kind=None, run=run, limit=1)
        return found[0] if found else None

    async def _runs(self, **given: Any) -> list[Run]:
        return [
            Run(
                *(run, kind, about, by, json.loads(plan), state, json.loads(progress)),
                *(None if at is None else times.moment(at) for at in when),
            )
            for run, kind, about, by, plan, state, progress, *when in await self._read(
                "runs", **given
            )
        ]

    async def note_items(self, run: str, items: Sequence[RunItem]) -> None:
        """Write these items, or replace what was noted of them."""
        last = {one.item: one for one in items}
        rows = [[plain(text) for text in one[:5]] for one in last.values()]
        names = ("items", "states", "event_ids", "consumers", "details")
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        if rows:
            await self._touch("note_items", run=run, rows=rows, **columns)

    async def run_items(
        self, run: str, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[RunItem]:
        """Its items behind ``after``."""
        given = {"run": run, "state": state, "after": after, "limit": limit}
        return [
            RunItem(item, state, event_id, consumer, detail, times.moment(at))
            for item, state, event_id, consumer, detail, at in await self._read(
                "run_items", **given
            )
        ]

    async def count_items(self, run: str) -> Mapping[str, int]:
        """How many items it has, by state."""
        return dict(await self._read("count_items", run=run))

    # ------------------------------------------------------------------- what was discarded

    async def keep_discarded(
        self, letters: Sequence[DiscardedLetter], restore_for: timedelta
    ) -> None:
        """Keep them so long from now on."""

        def work() -> Steps[None]:
            for one in letters:
                yield self._sql.of("keep_discarded", _row(one, restore_for), gives=False)

        await self.forget_discarded()
        if letters:
            await self._write(work())

    async def discarded_letters(
        self,
        names: Collection[str] | None = None,
        *,
        consumer: str | None = None,
        payloads: bool = False,
        limit: int = 100,
    ) -> Sequence[DiscardedLetter]:
        """Those whose time has not passed, the newest first."""
        given = {
            "names": None if names is None else [plain(one) for one in names],
            "consumer": None if consumer is None else plain(consumer),
            "payloads": payloads,
            "limit": limit,
        }
        return [_letter(row) for row in await self._read("discarded_letters", **given)]

    async def take_discarded(self, letters: Sequence[DiscardedLetter]) -> int:
        """Keep them no more; how many there were."""

        def work() -> Steps[int]:
            taken = 0
            for one in letters:
                given = {"letter": one.id, "stored_at": one.stored.stored_at}
                ((count,),) = yield self._sql.of("take_discarded", given, gives=False)
                taken += int(count)
            return taken

        return await self._write(work()) if letters else 0

    async def forget_discarded(self) -> int:
        """Drop those whose time has passed; how many."""
        dropped = 0
        while True:
            dropped += (count := await self._touch("forget_discarded", limit=_CHUNK))
            if count < _CHUNK:
                return dropped

    async def unclaim(self, consumer: str, event_ids: Collection[str]) -> int:
        """Remove these rows of the consumer's inbox."""
        return await self._touch("unclaim", consumer=consumer, event_ids=list(event_ids))


def _row(one: DiscardedLetter, restore_for: timedelta) -> dict[str, Any]:
    message = one.stored.message
    return {
        "letter": one.id,
        "stored_at": one.stored.stored_at,
        "queue": one.stored.stream,
        "subject": plain(message.subject),
        "headers": json.dumps(dict(message.headers)),
        "payload": message.payload,
        "event_id": plain(one.event_id),
        "consumer": plain(one.consumer),
        "holds": one.holds,
        "behind": one.behind,
        "by": plain(one.by),
        "why": plain(one.why),
        "seconds": restore_for.total_seconds(),
    }


def _letter(row: Row) -> DiscardedLetter:
    letter, stored_at, queue, subject, headers, payload, event_id, consumer, holds, *rest = row
    behind, by, why, discarded_at, until = rest
    message = Message(subject, payload or b"", json.loads(headers))
    return DiscardedLetter(
        StoredMessage(message, queue, int(letter.rpartition(":")[2]), times.moment(stored_at)),
        *(event_id, consumer, bool(holds), behind, by, why),
        *(times.moment(discarded_at), times.moment(until)),
        bare=payload is None,
    )


def plain(text: str) -> str:
    """``text`` as every database takes it."""
    return (
        text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
