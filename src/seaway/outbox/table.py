"""The outbox as a SQLAlchemy table, for queries of the application's own.

Guarantees: SQLAlchemy neither makes nor drops it; that is for ``seaway db upgrade``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    event,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.types import TypeEngine

from seaway.databases import times
from seaway.databases.engines import of_dialect
from seaway.errors import ConfigError

_NAME = "seaway_outbox"


class Moment(TypeDecorator[datetime]):
    """An aware time; where tables hold none (SQLite's), microseconds since 1970."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See ``TypeDecorator``."""
        plain = DateTime(timezone=True)
        return dialect.type_descriptor(BigInteger() if _counted(dialect) else plain)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """See ``TypeDecorator``."""
        return value if value is None or not _counted(dialect) else times.microseconds(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """See ``TypeDecorator``."""
        return times.moment(value) if isinstance(value, int) else value


def _counted(dialect: Dialect) -> bool:
    engine = of_dialect(dialect.name)
    return engine is not None and not engine.timed


def outbox_table(metadata: MetaData, *, schema: str | None = None) -> Table:
    """``seaway_outbox``: the committed events that no stream has acknowledged yet.

    ``schema``: where Seaway's tables are (default: the metadata's, else the search path). The same
    table again for the same metadata. Read it; rows are written by ``Outbox.add``. Creating or
    dropping it through ``metadata`` raises ``ConfigError``: a ``MetaData`` of its own keeps it out
    of ``create_all`` and ``drop_all``. ``seaway.outbox.alembic`` keeps it out of migrations.
    """
    full_name = ".".join(filter(None, (schema or metadata.schema, _NAME)))
    if full_name in metadata.tables:
        return metadata.tables[full_name]
    table = Table(
        _NAME,
        metadata,
        Column("position", BigInteger, primary_key=True),
        Column("event_id", String().with_variant(UUID(as_uuid=False), "postgresql"), unique=True),
        Column("subject", Text, nullable=False),
        Column("ordering_key", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("headers", JSON, nullable=False),
        Column("added_at", Moment, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("last_error", Text),
        Column("parked_at", Moment),
        schema=schema,
    )
    event.listen(table, "before_create", _refuse)
    event.listen(table, "before_drop", _refuse)
    return table


def _refuse(*_: object, **__: object) -> None:
    raise ConfigError(
        f"{_NAME} is neither made nor dropped by SQLAlchemy",
        hint="seaway db upgrade makes it; give outbox_table a MetaData of its own",
    )
