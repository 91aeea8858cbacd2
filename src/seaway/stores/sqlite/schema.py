"""Seaway's tables in an SQLite file: what is missing, applying it, and checking it.

Owns: the numbered migrations. Guarantees: each is one transaction, applied once even when two
processes upgrade at the same time; tables of a newer Seaway are never touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from seaway.contracts import SchemaChange
from seaway.errors import SchemaMismatch
from seaway.stores import statements
from seaway.stores.sqlite import rows
from seaway.stores.sqlite.connection import Connection, to_its_end
from seaway.stores.sqlite.errors import translating

_SQL = statements.load("sqlite/schema.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of ``stores/migrations/sqlite``."""

    version: int
    name: str
    script: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations of this version of Seaway, in order."""
    folder = files("seaway.stores").joinpath("migrations/sqlite")
    found = []
    for file in folder.iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix == "sql":
            number, _, name = stem.partition("_")
            found.append(Migration(int(number), name, file.read_text("utf-8").strip()))
    return tuple(sorted(found, key=lambda migration: migration.version))


def script() -> str:
    """All migrations as one script, for whoever applies them by hand."""
    parts = [f"{_SQL['create_versions']};"]
    for migration in migrations():
        parts.append(
            f"-- {migration.version:04d}_{migration.name}\nBEGIN IMMEDIATE;\n"
            f"{migration.script}\n"
            f"INSERT INTO seaway_schema (version, name, applied_at) VALUES "
            f"({migration.version}, '{migration.name}', "
            f"CAST(strftime('%s', 'now') AS INTEGER) * 1000000);\nCOMMIT;"
        )
    return "\n\n".join(parts) + "\n"


class SqliteSchema:
    """``contracts.SchemaAdmin`` for one file."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    async def plan(self) -> Sequence[SchemaChange]:
        """Every migration, and whether this file has it."""
        with translating(self._path):
            applied = await self._connection.run(self._applied)
        return [SchemaChange(m.version, m.name, m.version in applied) for m in migrations()]

    async def upgrade(self) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent."""
        done = []
        for migration in migrations():

            def work(db: sqlite3.Connection, wanted: Migration = migration) -> bool:
                return self._apply(db, wanted)

            with translating(self._path):
                if await to_its_end(self._connection.run(work)):
                    done.append(SchemaChange(migration.version, migration.name, True))
        return done

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them."""
        missing = [change for change in await self.plan() if not change.applied]
        if missing:
            names = ", ".join(f"{change.version:04d}_{change.name}" for change in missing)
            raise SchemaMismatch(
                f"{self._path} lacks Seaway's tables ({names}): run seaway db upgrade"
            )
        with translating(self._path):
            found = await self._connection.run(_objects)
        for name, sql in _expected().items():
            if found.get(name) != sql:
                state = "differs" if name in found else "is missing"
                raise SchemaMismatch(
                    f"{self._path}: {name} {state}: compare with seaway db sql and repair it"
                )

    def sql(self) -> str:
        """All migrations as one script."""
        return script()

    def _applied(self, db: sqlite3.Connection) -> set[int]:
        if not db.execute(_SQL["has_versions"]).fetchone()[0]:
            return set()
        applied = {version for version, _ in db.execute(_SQL["versions"]).fetchall()}
        newest = migrations()[-1].version
        if applied and max(applied) > newest:
            raise SchemaMismatch(
                f"{self._path} has Seaway's tables in version {max(applied)}, this Seaway knows "
                f"{newest}: upgrade seaway (pip install -U seaway)"
            )
        return applied

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
                db.execute(_SQL["record"], {**record, "now": rows.now()})
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
        for migration in migrations():
            db.executescript(migration.script)
        return _objects(db)
    finally:
        db.close()
