"""Fields over columns that every engine stores in its own way: read as what they mean.

Must not make columns: Seaway's numbered SQL does.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from seaway.databases import times
from seaway.databases.engines import of_dialect

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]
else:
    _Field = models.Field


class Moment(_Field):
    """An aware time, in UTC."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """See ``Field``."""
        return "timestamptz" if _timed(connection) else "integer"

    def from_db_value(self, value: Any, *_: Any) -> datetime | None:
        """See ``Field``."""
        return None if value is None else times.moment(value)

    def get_db_prep_value(
        self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False
    ) -> Any:
        """See ``Field``."""
        if value is None or _timed(connection):
            return value
        return times.microseconds(value)


class Identity(_Field):
    """An event's id, as text."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """See ``Field``."""
        return "uuid" if _timed(connection) else "text"

    def from_db_value(self, value: Any, *_: Any) -> str:
        """See ``Field``."""
        return str(value)


class Headers(_Field):
    """A mapping of text."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """See ``Field``."""
        return "json" if _timed(connection) else "text"

    def from_db_value(self, value: Any, *_: Any) -> dict[str, str]:
        """See ``Field``."""
        found: dict[str, str] = json.loads(value) if isinstance(value, str) else value
        return found


def _timed(connection: BaseDatabaseWrapper) -> bool:
    engine = of_dialect(connection.vendor)
    return engine is not None and engine.timed
