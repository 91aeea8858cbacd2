"""Databases. ``open_store`` reads a URL and gives the store that it names.

Owns: the URLs. Must not know any driver before it is asked for. Guarantees: a password in a URL
is in no error.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from seaway.contracts import Store
from seaway.errors import ConfigError

__all__ = ["open_store", "schema_script"]

_FORM = "sqlite:///relative/path.db or sqlite:////absolute/path.db"


async def open_store(url: str) -> Store:
    """Open the database that ``url`` names; the caller closes it.

    Takes ``sqlite:///relative.db`` and ``sqlite:////absolute.db`` (percent-encoding allowed); the
    file is created where it is not there, its tables are not (``store.schema.upgrade()``). Raises
    ``ConfigError`` for any other URL and for a file that cannot be a database.
    """
    path = _sqlite_path(url)
    from seaway.stores.sqlite import SqliteStore

    return await SqliteStore.open(path)


def schema_script(url: str) -> str:
    """All migrations for the kind of database that ``url`` names; opens and creates nothing."""
    _sqlite_path(url)
    from seaway.stores.sqlite.schema import script

    return script()


def _sqlite_path(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError("the database is not given as a URL", hint=_FORM)
    if scheme in ("postgresql", "postgres"):
        raise ConfigError("PostgreSQL is not in this version, which has SQLite only", hint=_FORM)
    if scheme != "sqlite":
        raise ConfigError(f"databases of the kind {scheme}:// are not supported", hint=_FORM)
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
