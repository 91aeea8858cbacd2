"""Seaway's tables in a PostgreSQL database: what is missing, applying it, and checking it.

Owns: the version table and what is compared. Guarantees: each migration is one transaction,
applied once even when several processes upgrade at the same time (an advisory lock); whoever writes
to a table waits two seconds at a time for an upgrade that waits for that table, and then has as
long to go on; tables that a newer Seaway needs otherwise are never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import asyncpg

from seaway.contracts import Phase, SchemaChange
from seaway.databases import statements
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import translating
from seaway.errors import SchemaMismatch
from seaway.stores import versions
from seaway.stores.postgres.begins import DESCRIBING, READING, WAITING_FOR_UPGRADES
from seaway.stores.postgres.connection import Pool
from seaway.stores.scripts import LOCK, PATIENCE, place
from seaway.stores.versions import Migration, migrations
from seaway.tables import within

_ENGINE = "postgres"
_ATTEMPTS = 15
_PAUSE_SECONDS = 2.0


class PostgresSchema:
    """``contracts.SchemaAdmin`` for one database, and one schema in it."""

    def __init__(self, pool: Pool, schema: str | None) -> None:
        self._pool = pool
        self._schema = schema
        self._sql = statements.load("postgres/schema.sql", schema)
        self._versions = name("seaway_schema", schema)

    async def plan(self) -> Sequence[SchemaChange]:
        """Every migration, and whether this database has it."""
        return versions.changes(migrations(_ENGINE), await self._recorded())

    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent."""
        done = []
        for migration in versions.missing(migrations(_ENGINE), await self._recorded(), phase):
            if await self._apply(migration):
                done.append(migration.change(applied=True))
        return done

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them."""
        recorded = await self._recorded()
        where = self._pool.shown
        versions.refuse_missing(migrations(_ENGINE), recorded, where)
        if set(recorded) != {migration.version for migration in migrations(_ENGINE)}:
            return  # In the middle of a rolling upgrade, whose phases are made to be lived with.
        found = set(await self.objects())
        for line in expected():
            if line not in found:
                raise SchemaMismatch(
                    f"{where}: Seaway's tables lack {line!r}: compare with seaway db sql and "
                    "repair it"
                )

    async def objects(self) -> Sequence[str]:
        """What there is, a line each: what ``verify`` compares."""
        async with self._pool.transaction(DESCRIBING) as connection:
            found = await connection.fetch(self._sql["objects"], self._versions)
        return [line for (line,) in found]

    async def _recorded(self) -> Mapping[int, str]:
        async with self._pool.transaction(READING) as connection:
            return await self._read(connection)

    async def _read(self, connection: Handle) -> Mapping[int, str]:
        if not await connection.fetchval(self._sql["has_versions"], self._versions):
            return {}
        found = await connection.fetch(self._sql["versions"])
        recorded: dict[int, str] = dict(found)  # type: ignore[arg-type]
        versions.refuse_newer(migrations(_ENGINE), recorded, self._pool.shown)
        return recorded

    async def _apply(self, migration: Migration) -> bool:
        with translating(self._pool.shown):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return await self._applied(migration)
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    if attempt == _ATTEMPTS:
                        raise
                await asyncio.sleep(_PAUSE_SECONDS)
        return False

    async def _applied(self, migration: Migration) -> bool:
        async with self._pool.untranslated(WAITING_FOR_UPGRADES) as connection:
            await connection.execute(f"{LOCK}; {PATIENCE}; {place(self._schema)}")
            # Read under the lock: another process may just have applied it.
            if migration.version in await self._read(connection):
                return False
            await connection.execute(self._sql["create_versions"])
            await connection.execute(migration.script)
            await connection.execute(self._sql["record"], migration.version, migration.name)
        return True


def name(table: str, schema: str | None) -> str:
    """For ``to_regclass``: the table's name as SQL would have it."""
    return within(table, schema)


@cache
def expected() -> tuple[str, ...]:
    """What all migrations together make, as ``objects`` says it."""
    text = files("seaway.stores").joinpath("sql/postgres/expected.txt").read_text("utf-8")
    return tuple(text.splitlines())
