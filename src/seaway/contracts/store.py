"""A database with outbox and inbox, its schema and who works on it; where databases differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from seaway.contracts.audit import AuditStore
from seaway.contracts.history import HistoryStore
from seaway.contracts.inbox import ParkingStore, ThreadInbox
from seaway.contracts.log import LogStore, Notes
from seaway.contracts.mending import MendingStore
from seaway.contracts.outbox import OutboxStore
from seaway.contracts.vitals import VitalStore

Phase: TypeAlias = Literal["pre", "post"]
"""Of a rolling upgrade: before the first new process, or after the last old one."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A numbered migration: ``version``, ``name``, whether this database has it, its phase."""

    version: int
    name: str
    applied: bool
    phase: Phase = "pre"


class SchemaAdmin(Protocol):
    """The library's own tables in one database."""

    async def plan(self) -> Sequence[SchemaChange]: ...
    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent.

        ``phase``: only that phase of a rolling upgrade; ``ConfigError`` where one of the other
        must come first.
        """
        ...

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them.

        What is left for the second phase of a rolling upgrade is no mismatch, nor is what a newer
        Seaway's first phase has added.
        """
        ...


SILENT = timedelta(seconds=30)
"""A process that has said nothing for so long has gone without a word; it speaks every 10 s."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A part of a process is at work or, where it names ``about``, waits for that.

    ``part``: ``relay``, ``consumer case_mgmt__from_sea``, ``sweeper``. ``about``, ``reason``: as
    in ``telemetry.Wait``; one that waits for nothing may say its ``figures`` there. ``lasts``: for
    how long by now, and ``silent``: how long ago it was said; both are spans, since clocks differ.
    """

    part: str
    about: str = ""
    reason: str = ""
    lasts: timedelta = timedelta()
    process: str = ""
    silent: timedelta = timedelta()

    @property
    def live(self) -> bool:
        """Whether its process was heard of lately."""
        return self.silent < SILENT

    @property
    def waits(self) -> bool:
        """Whether it says of a wait."""
        return bool(self.about)

    @property
    def figures(self) -> Mapping[str, float]:
        """What it says of its work in numbers, by name (``upkeep.Figures``); empty where it says
        none, or an older Seaway wrote it."""
        if self.waits or not self.reason:
            return {}
        try:
            said = json.loads(self.reason)
        except ValueError:
            return {}
        pairs = said.items() if isinstance(said, dict) else ()
        return {name: float(one) for name, one in pairs if isinstance(one, int | float)}


class ProcessStore(Protocol):
    """A short table of who works on this database. Best effort: nothing depends on it."""

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself; empty: it has ended.

        Of each notice ``part``, ``about``, ``reason`` and ``lasts`` are taken, one for each
        ``part`` and ``about``. What others have not renewed for a day is removed.
        """
        ...

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself, also of those that have gone without a word, by
        process and part; ages by the database's clock, never negative."""
        ...


class Store(
    OutboxStore,
    ParkingStore,
    ProcessStore,
    Notes,
    VitalStore,
    HistoryStore,
    AuditStore,
    MendingStore,
    Protocol,
):
    """One database that has both sides, its schema, who works on it and what they note."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def schema(self) -> SchemaAdmin: ...

    def for_threads(self) -> ThreadInbox:
        """Its inbox for plain handlers: ``handle`` is a synchronous connection to this database.
        To be called on the event loop, which hears of its commits. ``MissingExtra`` without a
        driver for that; nothing is opened before the first transaction."""
        ...

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        ...

    async def forget(self, before: datetime) -> None:
        """Drop inbox rows written before then, as ``prune`` does, and none that is younger.

        Where they go in bulk, a row stays until all others of events of the same day are that old,
        and ``capabilities.pruned_by`` longer.
        """
        ...

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune(sent)``, ``forget(processed)`` and ``forget_discarded()`` would
        remove now, by table or partition; empty: none."""
        ...


class RelayStore(OutboxStore, LogStore, Protocol):
    """What a relay needs of a database."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where stores honestly differ. The conformance suite reads it, and so may callers."""

    durable: bool
    """Survives the process."""
    shared: bool
    """Several processes may use it at once."""
    concurrent_transactions: bool
    """Two transactions may be open for writing at the same time."""
    shards: bool = False
    """Several leases may be held at once, each for its share of the ordering keys."""
    pruned_by: timedelta = timedelta()
    """How much longer than asked for settled events and inbox rows may be kept, since they go in
    bulk."""
    connections: int | None = None
    """How many connections this store opens at the most, those of plain handlers not counted;
    ``None``: nobody has to share them."""
