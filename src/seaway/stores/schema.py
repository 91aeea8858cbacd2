"""Seaway's tables in a database: numbered migrations, what a database lacks, and checking it.

    stores/{engine}/migrations/
        0001_outbox_and_inbox.sql        before new code starts; old code goes on working
        0007_drop_old_column.post.sql    after the last old process has ended

Owns: those files, the version table, the rules of a rolling upgrade, and migrations as text for
whoever runs them by hand. Guarantees: each migration is one transaction, applied once even when
several processes upgrade at the same time; tables of a newer Seaway are never touched. Must not
know a driver: whoever prints the script may have none.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import ClassVar

from seaway.contracts import Phase, SchemaChange
from seaway.databases.engines import Engine
from seaway.databases.queries import Statements
from seaway.errors import ConfigError, SchemaMismatch
from seaway.tables import check_schema

_POST = ".post"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file. ``name`` is what the version table records; it says the phase."""

    version: int
    name: str
    script: str

    @property
    def phase(self) -> Phase:
        """When it may run beside the code of the version before."""
        return phase_of(self.name)

    def change(self, *, applied: bool) -> SchemaChange:
        """What an operator is told of it."""
        return SchemaChange(self.version, self.name, applied, self.phase)

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def phase_of(name: str) -> Phase:
    """The phase that a recorded name tells, also of a migration that this version lacks."""
    return "post" if name.endswith(_POST) else "pre"


@cache
def migrations(engine: Engine) -> tuple[Migration, ...]:
    """All migrations of this version of Seaway for ``engine``, in order."""
    found = []
    for file in files("seaway.stores").joinpath(engine.name, "migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text("utf-8").strip()))
    return tuple(sorted(found, key=lambda migration: migration.version))


class SqlSchema(ABC):
    """``contracts.SchemaAdmin`` for the tables of ``engine``; ``where`` names the database."""

    engine: ClassVar[Engine]

    def __init__(self, where: str) -> None:
        self._where = where

    @property
    def _migrations(self) -> tuple[Migration, ...]:
        return migrations(self.engine)

    async def plan(self) -> Sequence[SchemaChange]:
        """Every migration, and whether this database has it."""
        applied = await self._recorded()
        return [each.change(applied=each.version in applied) for each in self._migrations]

    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent."""
        return [
            migration.change(applied=True)
            for migration in self._missing(await self._recorded(), phase)
            if await self._apply(migration)
        ]

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them."""
        recorded = await self._recorded()
        lacking = [m for m in self._migrations if m.version not in recorded and m.phase == "pre"]
        if lacking:
            raise SchemaMismatch(
                f"{self._where} lacks Seaway's tables ({', '.join(map(str, lacking))}): run seaway "
                "db upgrade"
            )
        if recorded.keys() - {migration.version for migration in self._migrations}:
            return  # A newer Seaway's tables, which it has made to be lived with.
        if found := await self._difference(recorded):
            raise SchemaMismatch(
                f"{self._where}: {found}: compare with seaway db sql and repair it"
            )

    @abstractmethod
    async def _recorded(self) -> Mapping[int, str]:
        """What the version table says, each version with its name; ``_refuse_newer`` looked at."""

    @abstractmethod
    async def _apply(self, migration: Migration) -> bool:
        """Apply it unless another process just has; whether that was done."""

    @abstractmethod
    async def _difference(self, recorded: Mapping[int, str]) -> str | None:
        """What is not as the migrations made it."""

    def _missing(self, applied: Mapping[int, str], phase: Phase | None) -> Sequence[Migration]:
        """What to apply, in order; ``phase``: only those that may run now.

        What one of the first phase needs, no outstanding one of the second does: that only drops
        what older code was left with. ``ConfigError`` where one of the second phase would come
        before those of the first that it follows.
        """
        lacking = [each for each in self._migrations if each.version not in applied]
        chosen = [each for each in lacking if phase is None or each.phase == phase]
        if phase == "post":
            for each in chosen:
                before = [one for one in lacking if one.version < each.version]
                if first := next((one for one in before if one.phase == "pre"), None):
                    raise ConfigError(
                        f"{first} must be applied before {each}", hint="seaway db upgrade --pre"
                    )
        return chosen

    def _refuse_newer(self, recorded: Mapping[int, str]) -> None:
        """``SchemaMismatch`` where a newer Seaway has removed what this one may need.

        Newer migrations of the first phase are made to be lived with.
        """
        newest = self._migrations[-1].version
        gone = [v for v, name in recorded.items() if v > newest and phase_of(name) == "post"]
        if gone:
            raise SchemaMismatch(
                f"{self._where} has Seaway's tables in version {max(gone)}, this Seaway knows "
                f"{newest}: upgrade seaway (pip install -U seaway)"
            )


# ------------------------------------------------------------------- migrations as text


def script(engine: Engine, schema: str | None = None) -> str:
    """All migrations as one script, for whoever applies them by hand. May be run again."""
    sql = Statements(engine)
    begin = f"{sql['begin_upgrade']};\n"
    if "lock_upgrade" in sql:
        begin += f"{sql['lock_upgrade']};\n"
    parts = [f"{begin}{place(schema)}{sql['create_versions']};\nCOMMIT;"]
    for each in migrations(engine):
        done = record(engine, each)
        parts.append(f"-- {each}\n{begin}{_use(schema)}{each.script}\n\n{done};\nCOMMIT;")
    return "\n\n".join(parts) + "\n"


def record(engine: Engine, migration: Migration) -> str:
    """The statement that notes ``migration`` in the version table, its values in it."""
    statement = Statements(engine)["record_by_hand"]
    return statement.format(version=migration.version, name=migration.name)


def split(script: str) -> Iterator[str]:
    """The statements of an SQLite script: its ``executescript`` would commit behind our back."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if statement.strip():
        yield statement.strip()


def place(schema: str | None) -> str:
    """Make ``schema`` where it is not there, and everything that follows in it."""
    if schema is None:
        return ""
    # Not IF NOT EXISTS: that asks for the right to make schemas, also where it is there.
    make = f'CREATE SCHEMA "{check_schema(schema)}"'
    there = f"EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}')"
    return f"DO $$ BEGIN IF NOT {there} THEN {make}; END IF; END $$;\n{_use(schema)}"


def _use(schema: str | None) -> str:
    return "" if schema is None else f'SET LOCAL search_path = "{check_schema(schema)}";\n'
