"""The library's own tables: their names inside SQL, and the schema that holds them. Pure.

Guarantees: nothing but a plain lower-case name ever gets into a statement.
"""

from __future__ import annotations

import re

from seaway.errors import ConfigError

_OURS = re.compile(r"(?<![\w.\"'])seaway_\w+")
_PARTITION = re.compile(r"seaway_(sent|inbox)_(default|other|[0-9]{8})")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

TABLES = (
    "seaway_discarded",
    "seaway_run_items",
    "seaway_runs",
    "seaway_log",
    "seaway_places",
    "seaway_processes",
    "seaway_parked",
    "seaway_unhandled",
    "seaway_inbox",
    "seaway_sent",
    "seaway_outbox",
    "seaway_relay",
    "seaway_schema",
)
"""All tables of all engines, without the partitions."""


def within(statement: str, schema: str | None) -> str:
    """``statement`` with Seaway's tables in ``schema``; ``None``: wherever the search path says."""
    if schema is None:
        return statement
    check_schema(schema)
    return _OURS.sub(lambda found: f'"{schema}".{found[0]}', statement)


def is_ours(table: str) -> bool:
    """Whether ``table``, without its schema, is one of the library's own, partitions included."""
    return table in TABLES or _PARTITION.fullmatch(table) is not None


def check_schema(schema: str) -> str:
    """``schema`` itself; ``ConfigError`` where it is not a plain lower-case name."""
    if not _SCHEMA.fullmatch(schema):
        raise ConfigError(
            f"{schema!r} is not a schema's name", hint="lower-case letters, digits, underscores"
        )
    return schema
