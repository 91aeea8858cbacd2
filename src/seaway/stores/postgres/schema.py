"""Seaway's tables in a PostgreSQL database: applying migrations, and what is compared.

Guarantees beyond those of ``SqlSchema``: whoever writes to a table waits two seconds at a time for
an upgrade that waits for that table, and then has as long to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import asyncpg

from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Statements
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import translating
from seaway.stores.postgres.begins import DESCRIBING, READING, WAITING_FOR_UPGRADES
from seaway.stores.postgres.pool import Pool
from seaway.stores.schema import Migration, SqlSchema, place
from seaway.tables import within

_ATTEMPTS = 15
_PAUSE_SECONDS = 2.0


class PostgresSchema(SqlSchema):
    """See ``SqlSchema``; the tables are in one ``schema`` of the database."""

    engine = POSTGRES

    def __init__(self, pool: Pool, schema: str | None) -> None:
        super().__init__(pool.shown)
        self._pool = pool
        self._schema = schema
        self._sql = Statements(POSTGRES, schema)
        self._versions = within("seaway_schema", schema)

    async def objects(self) -> Sequence[str]:
        """What there is, a line each: what ``verify`` compares."""
        async with self._pool.transaction(DESCRIBING) as connection:
            found = await connection.fetch(self._sql["objects"], self._versions)
        return [line for (line,) in found]

    async def _difference(self, recorded: Mapping[int, str]) -> str | None:
        if len(recorded) < len(self._migrations):
            return None  # In the middle of a rolling upgrade.
        found = set(await self.objects())
        missing = (line for line in expected() if line not in found)
        return next((f"Seaway's tables lack {line!r}" for line in missing), None)

    async def _recorded(self) -> Mapping[int, str]:
        async with self._pool.transaction(READING) as connection:
            return await self._read(connection)

    async def _read(self, connection: Handle) -> Mapping[int, str]:
        if not await connection.fetchval(self._sql["has_versions"], self._versions):
            return {}
        found = await connection.fetch(self._sql["versions"])
        recorded: dict[int, str] = dict(found)  # type: ignore[arg-type]
        self._refuse_newer(recorded)
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
            await connection.execute(f"{self._sql['lock_upgrade']}; {place(self._schema)}")
            # Read under the lock: another process may just have applied it.
            if migration.version in await self._read(connection):
                return False
            await connection.execute(self._sql["create_versions"])
            await connection.execute(migration.script)
            await connection.execute(self._sql["record"], migration.version, migration.name)
        return True


@cache
def expected() -> tuple[str, ...]:
    """What all migrations together make, as ``objects`` says it."""
    text = files("seaway.stores").joinpath("postgres/expected.txt").read_text("utf-8")
    return tuple(text.splitlines())
