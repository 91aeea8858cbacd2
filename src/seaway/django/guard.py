"""Writes of Django's that a handler makes beside its delivery's transaction: refused, and said.

    async handler ── await Task.objects.acreate() ──> Django's own connection, which would commit
                                                      by itself, whatever becomes of the delivery

Owns: a wrapper around every statement on Django's connections. Must not look at anything outside
handlers. Guarantees: nothing is written where it refuses; what only reads goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from seaway.errors import OutsideTransaction
from seaway.inside import handle_of_delivery

_WRITES = "insert|update|delete|merge|replace|truncate|create|alter|drop|copy"
_WRITE = re.compile(rf"[\s(]*(?:with\b.*?\b)?({_WRITES})\b", re.IGNORECASE | re.DOTALL)


def install() -> None:
    """Watch the connections that there are, and those to come. Idempotent."""
    connection_created.connect(_watch, dispatch_uid="seaway")
    for connection in connections.all(initialized_only=True):
        _watch(connection)


def _watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if refuse not in connection.execute_wrappers:
        connection.execute_wrappers.append(refuse)


def refuse(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """``OutsideTransaction`` for a write in a handler whose transaction is on another connection.

    Another alias than that of ``tx=Django(...)`` is the handler's own affair.
    """
    handle = handle_of_delivery()
    if handle is not None and (written := _WRITE.match(str(sql))) is not None:
        own = context["connection"]
        if not isinstance(handle, BaseDatabaseWrapper) or (
            own is not handle and own.alias == handle.alias
        ):
            raise OutsideTransaction(
                f"the handler's {written[1].upper()} on Django's database {own.alias} is outside "
                "its delivery's transaction, so it would stay whatever becomes of the delivery",
                hint="make it a plain function of a consumer with tx=Django(...), or write through "
                "delivery.tx",
            )
    return execute(sql, params, many, context)
