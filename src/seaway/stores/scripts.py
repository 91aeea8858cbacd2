"""Migrations as text: what is run, printed, or handed to somebody else.

Needs no driver: whoever prints the script may have none.
"""

from __future__ import annotations

from seaway.databases import statements
from seaway.stores.versions import Migration, migrations
from seaway.tables import check_schema

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('seaway db upgrade', 0))"
"""Two that upgrade at once do so one after the other."""
PATIENCE = "SET LOCAL lock_timeout = 2000"
"""Whoever writes waits behind an upgrade that waits for a table. Said when ``LOCK`` is had."""
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE;\nSET LOCAL statement_timeout = 0;\n"
    f"SET LOCAL lock_timeout = 0;\n{LOCK};\n{PATIENCE};\n"
)


def postgres_script(schema: str | None) -> str:
    """All migrations as one script, for whoever applies them by hand. May be run again."""
    parts = [f"{_BEGIN}{place(schema)}{create_versions('postgres')};\nCOMMIT;"]
    for migration in migrations("postgres"):
        parts.append(
            f"-- {migration.version:04d}_{migration.name}\n{_BEGIN}{_use(schema)}"
            f"{migration.script}\n\n{record('postgres', migration)};\nCOMMIT;"
        )
    return "\n\n".join(parts) + "\n"


def sqlite_script() -> str:
    """The same for SQLite."""
    parts = [f"{create_versions('sqlite')};"]
    for migration in migrations("sqlite"):
        parts.append(
            f"-- {migration.version:04d}_{migration.name}\nBEGIN IMMEDIATE;\n"
            f"{migration.script}\n{record('sqlite', migration)};\nCOMMIT;"
        )
    return "\n\n".join(parts) + "\n"


def create_versions(engine: str) -> str:
    """The statement that makes the version table where it is not there."""
    return statements.load(f"{engine}/schema.sql")["create_versions"]


def record(engine: str, migration: Migration) -> str:
    """The statement that notes ``migration`` in the version table, its values in it."""
    values = f"{migration.version}, '{migration.name}'"
    columns = "version, name"
    if engine == "sqlite":
        columns += ", applied_at"
        values += ", CAST(strftime('%s', 'now') AS INTEGER) * 1000000"
    return f"INSERT INTO seaway_schema ({columns}) VALUES ({values})"  # noqa: S608 - our own files


def _use(schema: str | None) -> str:
    return "" if schema is None else f'SET LOCAL search_path = "{check_schema(schema)}";\n'


def place(schema: str | None) -> str:
    """Make ``schema`` where it is not there, and everything that follows in it."""
    if schema is None:
        return ""
    # Not IF NOT EXISTS: that asks for the right to make schemas, also where it is there.
    make = f'CREATE SCHEMA "{check_schema(schema)}"'
    there = f"EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}')"
    return f"DO $$ BEGIN IF NOT {there} THEN {make}; END IF; END $$;\n{_use(schema)}"
