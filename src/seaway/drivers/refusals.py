"""What is said of a handle that cannot be used as it is, whichever the driver. Pure.

``undoing``: what undoes a part of a transaction alone, in the words of the driver.
"""

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


def aborted(undoing: str) -> ConfigError:
    """A transaction that can only be rolled back."""
    return ConfigError(
        "the transaction is aborted: a statement before this one failed",
        hint=f"roll back, or put such a statement into {undoing}",
    )


def closed(error: object) -> ConfigError:
    """A handle that cannot write any more."""
    return ConfigError(f"the connection cannot be used: {error}")


def unsupported(what: str) -> ConfigError:
    """A framework's handle on a database that has no outbox here."""
    return ConfigError(
        f"the outbox cannot write through {what}", hint="it takes PostgreSQL and SQLite"
    )


def nothing_committed(undoing: str) -> str:
    """What is said where a body passed over the failure of a statement."""
    return (
        f"nothing was committed, since a statement had failed before: put such a one into {undoing}"
    )


def ended_by_body(undoing: str) -> ConfigError:
    """What is said to code that ended the transaction that it was given."""
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint=f"leave commit and rollback to Seaway; a part is undone by {undoing}",
    )
