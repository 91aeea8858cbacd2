"""Databases. ``open_store`` reads a URL and gives the store that it names; ``open_configured``
does the same with the URL and the options of a configuration.

Owns: the URLs. Must not know any driver before it is asked for. Guarantees: a password in a URL
is in no error.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

from seaway.config import Settings
from seaway.contracts import Store
from seaway.databases.engines import ENGINES, SQLITE, Engine, of_scheme
from seaway.errors import ConfigError, MissingExtra
from seaway.stores.schema import script

__all__ = ["open_configured", "open_store", "schema_script"]

_FORMS = " or ".join(engine.form for engine in reversed(ENGINES))


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
    engine = _engine_of(url, schema)
    try:
        module = import_module(f"{__name__}.{engine.name}")
    except ModuleNotFoundError as error:
        if engine.extra is None:
            raise
        raise MissingExtra(engine.extra, f"a {engine.shown} database") from error
    opened: Store = await module.Store.from_url(
        url, schema=schema, keep_sent=keep_sent, listen=listen, poll=poll, create=create
    )
    return opened


def schema_script(url: str, schema: str | None = None) -> str:
    """All migrations for the kind of database that ``url`` names; opens and creates nothing."""
    engine = _engine_of(url, schema)
    if engine is SQLITE:
        file_of(url)
    return script(engine, schema)


def _engine_of(url: str, schema: str | None) -> Engine:
    scheme, separator, _ = url.partition("://")
    engine = of_scheme(scheme)
    if not separator:
        raise ConfigError("the database is not given as a URL", hint=_FORMS)
    if engine is None:
        raise ConfigError(f"databases of the kind {scheme}:// are not supported", hint=_FORMS)
    if schema is not None and not engine.schemas:
        raise ConfigError(engine.without_schemas, hint="leave database_schema out")
    return engine


def file_of(url: str) -> Path:
    """The path that an SQLite URL names; ``ConfigError`` where it names none."""
    _, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if host or not slash or not path:
        raise ConfigError("the database's URL names no file", hint=SQLITE.form)
    if "?" in path or "#" in path:
        raise ConfigError("the database's URL has options, which SQLite files here do not take")
    path = unquote(path)
    if path.startswith(":memory:"):
        raise ConfigError(
            "sqlite:///:memory: cannot be shared by the application and the relay", hint=SQLITE.form
        )
    if "\0" in path:
        raise ConfigError("the database's path has a NUL character")
    return Path(path)
