"""Databases. ``open_store`` reads a URL and gives the store that it names; ``open_configured``
does with the URL and the options of a configuration.

Owns: the URLs. Must not know any driver before it is asked for. Guarantees: a password in a URL
is in no error.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from seaway.config import Settings
from seaway.contracts import Store
from seaway.errors import ConfigError, MissingExtra
from seaway.stores.scripts import postgres_script, sqlite_script

__all__ = ["open_configured", "open_store", "schema_script"]

_FORM = "sqlite:///relative/path.db or sqlite:////absolute/path.db"
_ANY_FORM = f"{_FORM} or postgresql://user@host/database"
_POSTGRES = re.compile(r"postgres(ql)?(\+\w+)?")


async def open_configured(settings: Settings, *, create: bool = True) -> Store:
    """Open the database that ``settings`` name, as they say; the caller verifies and closes it.

    ``create``, and what is raised: see ``open_store``.
    """
    outbox = settings.outbox
    return await open_store(
        settings.database,
        schema=settings.database_schema,
        keep_sent=bool(outbox.retention),
        listen=outbox.notify,
        poll=outbox.poll,
        create=create,
    )


async def open_store(
    url: str,
    *,
    schema: str | None = None,
    keep_sent: bool = True,
    listen: bool = False,
    poll: timedelta = timedelta(milliseconds=100),
    create: bool = True,
) -> Store:
    """Open the database that ``url`` names; the caller closes it.

    Takes ``sqlite:///relative.db`` and ``sqlite:////absolute.db`` (percent-encoding allowed); a
    file that is not there is created or, without ``create``, ``NoDatabase``. And
    ``postgresql://user@host/database``, where ``schema`` (default: the search path's) holds
    Seaway's tables, which ``store.schema.upgrade()`` makes.
    ``keep_sent=False`` keeps no settled events; ``listen``: be woken by writers that notify, on
    PostgreSQL; ``poll``: the longest pause between two looks at an empty outbox.

    Raises ``ConfigError`` for any other URL, for a file that cannot be a database and for a user
    who is not let in, ``StoreUnavailable`` where the database is away, ``MissingExtra`` without the
    driver.
    """
    if _is_postgres(url):
        try:
            from seaway.stores.postgres import PostgresStore
        except ModuleNotFoundError as error:
            raise MissingExtra("postgres", "a PostgreSQL database") from error
        return await PostgresStore.open(
            url, schema=schema, keep_sent=keep_sent, listen=listen, poll=poll
        )
    path = _sqlite_path(url)
    _refuse_schema(schema)
    from seaway.stores.sqlite import SqliteStore

    return await SqliteStore.open(path, keep_sent=keep_sent, poll=poll, create=create)


def schema_script(url: str, schema: str | None = None) -> str:
    """All migrations for the kind of database that ``url`` names; opens and creates nothing."""
    if _is_postgres(url):
        return postgres_script(schema)
    _sqlite_path(url)
    _refuse_schema(schema)
    return sqlite_script()


def _is_postgres(url: str) -> bool:
    return _POSTGRES.fullmatch(url.partition("://")[0]) is not None


def _refuse_schema(schema: str | None) -> None:
    if schema is not None:
        raise ConfigError("an SQLite file has no schemas", hint="leave database_schema out")


def _sqlite_path(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError("the database is not given as a URL", hint=_ANY_FORM)
    if scheme != "sqlite":
        raise ConfigError(f"databases of the kind {scheme}:// are not supported", hint=_ANY_FORM)
    host, slash, path = rest.partition("/")
    if host or not slash or not path:
        raise ConfigError("the database's URL names no file", hint=_FORM)
    if "?" in path or "#" in path:
        raise ConfigError("the database's URL has options, which SQLite files here do not take")
    path = unquote(path)
    if path.startswith(":memory:"):
        raise ConfigError(
            "sqlite:///:memory: cannot be shared by the application and the relay", hint=_FORM
        )
    if "\0" in path:
        raise ConfigError("the database's path has a NUL character")
    return Path(path)
