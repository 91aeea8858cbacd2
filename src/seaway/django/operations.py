"""Seaway's numbered SQL as an operation of Django's migrations.

Owns: what ``migrate`` runs. Must not have SQL of its own for the tables. Guarantees: the version
table says afterwards what ``seaway db upgrade`` would have written, so either may run first and the
other finds nothing to do; on PostgreSQL they wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation

from seaway.databases import engines
from seaway.databases.engines import Engine, of_dialect
from seaway.databases.queries import Statements
from seaway.django.configuration import given
from seaway.errors import ConfigError
from seaway.stores.schema import migrations, place, record, split
from seaway.tables import TABLES
from seaway.words import counted


class ApplySql(Operation):
    """The numbered migration ``version``, on databases whose engine has one of that number.

    Backwards, the first drops all tables, but not with events in the outbox that no stream has
    yet; those after it leave the tables as they are, which older code is made to live with.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, version: int) -> None:
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing: there are no models."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Apply it, unless the version table has it."""
        engine = _engine(app_label, schema_editor)
        if engine is None:
            return
        found = [each for each in migrations(engine) if each.version == self.version]
        if not found:
            return
        with _ours(engine, schema_editor):
            schema_editor.execute(Statements(engine)["create_versions"], None)
            recorded = f"SELECT count(*) FROM seaway_schema WHERE version = {self.version}"  # noqa: S608
            if _count(schema_editor, recorded):
                return
            script = found[0].script
            for statement in [script] if engine.scripts else split(script):
                schema_editor.execute(statement, None)
            schema_editor.execute(record(engine, found[0]), None)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Drop the tables, if it is the first."""
        engine = _engine(app_label, schema_editor)
        if engine is None or self.version != 1:
            return
        with _ours(engine, schema_editor):
            waiting = _count(schema_editor, "SELECT count(*) FROM seaway_outbox")
            if waiting:
                raise ConfigError(
                    f"{counted(waiting, 'event is', 'events are')} not published yet",
                    hint="run seaway relay --drain first, or delete them",
                )
            for table in TABLES:
                schema_editor.execute(f"DROP TABLE IF EXISTS {table}", None)

    def describe(self) -> str:
        """See ``Operation``."""
        return f"Seaway's own tables, version {self.version}"


def _engine(app_label: str, schema_editor: BaseDatabaseSchemaEditor) -> Engine | None:
    connection = schema_editor.connection
    if not router.allow_migrate(connection.alias, app_label):
        return None
    engine = of_dialect(connection.vendor)
    if engine is None:
        raise ConfigError(
            f"the database {connection.alias} is {connection.vendor}, and Seaway's tables are for "
            f"{engines.SHOWN}",
            hint="a database router can keep them away: allow_migrate(db, 'seaway')",
        )
    return engine


@contextmanager
def _ours(engine: Engine, schema_editor: BaseDatabaseSchemaEditor) -> Iterator[None]:
    """Alone, and in the schema of ``settings.SEAWAY``, until the block ends.

    Django's own tables are elsewhere: its next statement must find the search path as it was.
    """
    schema = given().get("database_schema") if engine.schemas else None
    if (lock := Statements(engine).get("lock_upgrade")) is not None:
        schema_editor.execute(lock, None)
    if schema is None:
        yield
        return
    keep = "SELECT set_config('seaway.search_path', current_setting('search_path'), true)"
    give_back = "SELECT set_config('search_path', current_setting('seaway.search_path'), true)"
    schema_editor.execute(f"{keep}; {place(schema)}", None)
    yield
    schema_editor.execute(give_back, None)


def _count(schema_editor: BaseDatabaseSchemaEditor, query: str) -> int:
    """What ``query`` counts; 0 where the statements are only collected (``sqlmigrate``)."""
    if schema_editor.collect_sql:
        return 0
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(query)
        (found,) = cursor.fetchone()
    return int(found)
