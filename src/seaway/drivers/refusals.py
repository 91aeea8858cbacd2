"""What every adapter says of a handle through which nothing can be written. Pure."""

from __future__ import annotations

from seaway.errors import ConfigError, OutsideTransaction

_ALONE = "so the event would not be atomic with your change"


def outside(
    *,
    what: str = "no transaction is open on this connection",
    hint: str = "begin one, and make your change and add the event inside it",
) -> OutsideTransaction:
    """An event that would be atomic with nothing."""
    return OutsideTransaction(f"{what}, {_ALONE}", hint=hint)


def autocommit() -> OutsideTransaction:
    """The same where a transaction seems open, but every statement commits by itself."""
    return OutsideTransaction(
        f"this connection is in autocommit mode, {_ALONE}",
        hint="use one whose isolation level is not AUTOCOMMIT",
    )


def aborted() -> ConfigError:
    """A transaction that can only be rolled back."""
    return ConfigError(
        "the transaction is aborted: a statement before this one failed",
        hint="roll back, or put such a statement into a savepoint",
    )


def closed(error: object) -> ConfigError:
    """A handle that cannot write any more."""
    return ConfigError(f"the connection cannot be used: {error}")


def unsupported(what: str) -> ConfigError:
    """A framework's handle on a database that has no outbox here."""
    return ConfigError(
        f"the outbox cannot write through {what}", hint="it takes PostgreSQL and SQLite"
    )
