"""What undoes a part of a transaction alone, in the words of whoever has its handle. Pure."""

from __future__ import annotations

from seaway.errors import ConfigError

_WAYS = {
    "asyncpg": "a block of connection.transaction()",
    "psycopg": "a block of connection.transaction()",
    "sqlalchemy": "a block of begin_nested()",
    "django": "an inner block of atomic()",
    "sqlite3": "SAVEPOINT and ROLLBACK TO",
    "aiosqlite": "SAVEPOINT and ROLLBACK TO",
}
NOTHING_COMMITTED = "nothing was committed, since a statement had failed before"


def undoing(handle: object) -> str:
    """The savepoint of the handle's own driver or framework."""
    for base in type(handle).__mro__:
        if way := _WAYS.get(base.__module__.partition(".")[0]):
            return way
    return "a savepoint"


def ended_by_body(handle: object) -> ConfigError:
    """What is said to code that ended the transaction that it was given."""
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint=f"leave commit and rollback to Seaway; a part is undone by {undoing(handle)}",
    )
