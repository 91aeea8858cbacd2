"""The options of a consumer: each with its type, its default and what it does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints

from seaway.errors import ConfigError
from seaway.retry import Backoff, RetryPolicy
from seaway.words import nearest


class ConsumerOptions(TypedDict, total=False):
    """How a consumer works: the keywords of ``Seaway.consumer``. What is left out has its default.

    A function of your own passes them on as ``**options: Unpack[ConsumerOptions]``.
    """

    batch: int
    """1: how many deliveries may share a transaction; one commit, then all acks. Where one fails,
    all are rolled back, and what was before and after it is worked on again without it. On SQLite,
    where one transaction writes at a time, 50 to 100 pays."""
    workers: int
    """1: how many transactions at a time; of plain handlers, each in a thread."""
    ordering: Literal["key", "none"]
    """``"key"``: events of one ordering key one after the other, in stream order; ``"none"``: each
    for itself."""
    deadline: timedelta | None
    """10 x ``ack_wait``: how long a handler may run before it is cancelled and retried; its message
    is kept alive meanwhile. A plain handler cannot be cancelled: its statement is ended, it cannot
    commit, and a thread that is not back after as long again (5 s at the most) is replaced."""
    grace: timedelta
    """30 s: how long running handlers may go on after a stop."""
    retry: Backoff | RetryPolicy | None
    """The backoff of failed handlers (base 1 s, cap ``ack_wait``, full jitter), or a
    ``RetryPolicy`` by type of exception."""
    on_failure: Literal["continue", "park"]
    """``"continue"``: after an event has become a dead letter, the later ones of its key go on;
    ``"park"``: they wait behind it in the dead letter queue, and are handled in order once it is
    redriven or discarded (ADR 0010). It costs each transaction a look at what is parked."""
    on_unknown: Literal["ignore", "letter"]
    """``"ignore"``: an event without a handler here is acknowledged, counted as ``ignored``, and
    said once a type; ``"letter"``: it becomes a dead letter, ``undecodable``. An unknown version of
    an event that has a handler always does. ``RawEvent`` takes them all."""
    tx: object
    """What ``delivery.tx`` is. ``"store"``: a connection of the configured database (in plain
    handlers a ``sqlite3.Connection``, on PostgreSQL a psycopg ``Connection``); a pool, an engine or
    sessions on that same database, or a function that gives connections to it, asynchronous ones
    for ``async`` handlers and synchronous ones for plain handlers, else ``ConfigError`` at the
    start; ``None``: no database, and effects at least once."""


_DEFAULTS = ConsumerOptions(
    batch=1,
    workers=1,
    ordering="key",
    deadline=None,
    grace=timedelta(seconds=30),
    retry=None,
    on_failure="continue",
    on_unknown="ignore",
    tx="store",
)


def whole(consumer: str, given: ConsumerOptions) -> ConsumerOptions:
    """Every option, those that are not ``given`` with their defaults; ``ConfigError`` names the
    consumer, what is wrong, and what would be right."""
    options: ConsumerOptions = {**_DEFAULTS, **given}
    kinds = get_type_hints(ConsumerOptions)
    for name, value in options.items():
        if name not in kinds:
            near = nearest(name, kinds)
            hint = f"did you mean {near}?" if near else f"it has {', '.join(kinds)}"
            raise ConfigError(f"consumer {consumer} has no option {name!r}", hint=hint)
        if not _is_a(kinds[name], value):
            raise ConfigError(
                f"consumer {consumer}: {name} is {_shown(kinds[name])}, not {value!r}"
            )
    if options["batch"] < 1 or options["workers"] < 1:
        raise ConfigError(f"consumer {consumer}: batch and workers are 1 or more")
    if options["on_failure"] == "park":
        parks, go_on = f"consumer {consumer}: on_failure='park' needs", "use on_failure='continue'"
        if options["tx"] is None:
            raise ConfigError(
                f"{parks} a database, to remember which keys wait",
                hint=f"leave tx=None out, or {go_on}",
            )
        if options["tx"] != "store":
            raise ConfigError(
                f"{parks} the application's own store", hint=f"leave tx= out, or {go_on}"
            )
        if options["ordering"] != "key":
            raise ConfigError(f"{parks} ordering='key'")
    return options


def _is_a(kind: Any, value: object) -> bool:
    accepted = get_args(kind) or (kind,)
    if get_origin(kind) is Literal:
        return value in accepted
    return isinstance(value, accepted) and not (kind is int and isinstance(value, bool))


def _shown(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    names = (one.__name__ for one in get_args(kind) or (kind,))
    return " or ".join(names).replace("NoneType", "None")
