"""Django: its connections by alias, and the proxy of the default one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, ClassVar
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connection, connections
from django.db.transaction import atomic

from drivers.base import Driver

# Django refuses to block an event loop; here the suite has it to itself.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
if not settings.configured:
    settings.configure(INSTALLED_APPS=["seaway.django"], USE_TZ=True, DATABASES={})
    django.setup()


@contextmanager
def database(url: str, alias: str = "default") -> Iterator[Any]:
    """Django's connection to ``url`` under ``alias``, for as long as the block runs."""
    parts = urlsplit(url)
    given = (
        {"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:///")}
        if parts.scheme == "sqlite"
        else {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path.lstrip("/"),
            "HOST": parts.hostname,
            "PORT": parts.port,
            "USER": parts.username,
            "PASSWORD": parts.password or "",
        }
    )
    known = dict(connections.settings)
    connections.settings[alias] = connections.configure_settings({"default": given})["default"]
    if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
        del connections[alias]
    try:
        yield connections[alias]
    finally:
        connections[alias].close()
        del connections[alias]
        connections.settings.clear()
        connections.settings.update(known)


class DjangoConnection(Driver):
    undoing = "atomic()"
    alias: ClassVar[str] = "reports"

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        with database(self.url, self.alias) as opened:
            yield self.handle(opened)

    def handle(self, opened: Any) -> Any:
        return opened

    @asynccontextmanager
    async def begun(self, handle: Any) -> AsyncIterator[Any]:
        with atomic(using=self.alias):
            yield

    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        return self.begun(handle)

    async def execute(self, handle: Any, sql: str) -> None:
        with handle.cursor() as cursor:
            cursor.execute(sql)

    async def close(self, handle: Any) -> None:
        handle.close()


class DjangoDefault(DjangoConnection):
    alias = "default"

    def handle(self, opened: Any) -> Any:
        return connection


class DjangoSqliteConnection(DjangoConnection):
    engine = "sqlite"


class DjangoSqliteDefault(DjangoDefault):
    engine = "sqlite"


DJANGO: tuple[type[Driver], ...] = (
    DjangoConnection,
    DjangoDefault,
    DjangoSqliteConnection,
    DjangoSqliteDefault,
)
