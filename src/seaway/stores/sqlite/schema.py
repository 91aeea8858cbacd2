"""Seaway's tables in an SQLite file: what is missing, applying it, and checking it.

Owns: the numbered migrations. Guarantees: each is one transaction, applied once even when two
processes upgrade at the same time; tables of a newer Seaway are never touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache

from seaway.contracts import Phase, SchemaChange
from seaway.databases import statements, times
from seaway.databases.ending import to_its_end
from seaway.databases.sqlite_codes import translating
from seaway.errors import SchemaMismatch
from seaway.stores import versions
from seaway.stores.sqlite.connection import Connection
from seaway.stores.versions import Migration, migrations

_SQL = statements.load("sqlite/schema.sql")


class SqliteSchema:
    """``contracts.SchemaAdmin`` for one file."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def plan(self) -> Sequence[SchemaChange]:
        """Every migration, and whether this file has it."""
        return versions.changes(migrations("sqlite"), await self._recorded())

    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent."""
        done = []
        for migration in versions.missing(migrations("sqlite"), await self._recorded(), phase):

            def work(db: sqlite3.Connection, wanted: Migration = migration) -> bool:
                return self._apply(db, wanted)

            with translating(self._path):
                if await to_its_end(self._connection.run(work)):
                    done.append(migration.change(applied=True))
        return done

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them."""
        recorded = await self._recorded()
        versions.refuse_missing(migrations("sqlite"), recorded, self._path)
        if len(recorded) > len(migrations("sqlite")):
            return  # A newer Seaway's tables, which it has made to be lived with.
        with translating(self._path):
            found = await self._connection.run(_objects)
        for name, sql in _expected().items():
            if found.get(name) != sql:
                state = "differs" if name in found else "is missing"
                raise SchemaMismatch(
                    f"{self._path}: {name} {state}: compare with seaway db sql and repair it"
                )

    async def _recorded(self) -> dict[int, str]:
        with translating(self._path):
            return await self._connection.run(self._applied)

    def _applied(self, db: sqlite3.Connection) -> dict[int, str]:
        if not db.execute(_SQL["has_versions"]).fetchone()[0]:
            return {}
        recorded = dict(db.execute(_SQL["versions"]).fetchall())
        versions.refuse_newer(migrations("sqlite"), recorded, self._path)
        return recorded

    def _apply(self, db: sqlite3.Connection, migration: Migration) -> bool:
        db.execute("BEGIN IMMEDIATE")
        try:
            # Read under the write lock: another process may just have applied it.
            db.execute(_SQL["create_versions"])
            missing = migration.version not in self._applied(db)
            if missing:
                for statement in split(migration.script):
                    db.execute(statement)
                record = {"version": migration.version, "name": migration.name}
                db.execute(_SQL["record"], {**record, "now": times.now()})
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return missing


def split(script: str) -> Iterator[str]:
    """The statements of a script, for ``executescript`` would commit behind our back."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if statement.strip():
        yield statement.strip()


def _objects(db: sqlite3.Connection) -> dict[str, str]:
    return {name: " ".join(sql.split()) for name, sql in db.execute(_SQL["objects"]).fetchall()}


@cache
def _expected() -> dict[str, str]:
    db = sqlite3.connect(":memory:")
    try:
        db.execute(_SQL["create_versions"])
        for migration in migrations("sqlite"):
            db.executescript(migration.script)
        return _objects(db)
    finally:
        db.close()
