"""PostgreSQL URLs: what is in one, as asyncpg wants to be told. Pure.

Owns: the form of the URL, so that it means the same whatever driver reads it elsewhere.
Guarantees: the password is in nothing that is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from seaway.errors import ConfigError

FORM = "postgresql://user:password@host:5432/database"
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_PASSED_ON = {
    "sslmode": "ssl",
    "host": "host",
    "user": "user",
    "password": "password",
    "passfile": "passfile",
    "target_session_attrs": "target_session_attrs",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is. ``shown`` names it for people.

    ``pgbouncer``: statements are not prepared by name, since the next one may reach another
    session (PgBouncer in transaction mode).
    """

    shown: str
    pgbouncer: bool = False
    options: Mapping[str, object] = field(default_factory=dict, repr=False)


def parse(url: str) -> Address:
    """Read ``postgresql://`` (also ``postgres://`` and ``postgresql+driver://``) URLs.

    What the URL leaves out, libpq's variables say (``PGHOST``, ``PGPASSWORD``, ...). Options after
    the ``?``: ``sslmode``, ``host`` (a socket's folder), ``user``, ``password``, ``passfile``,
    ``target_session_attrs``, ``application_name``, ``connect_timeout`` (seconds) and ``pgbouncer``.
    ``ConfigError`` for anything else.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("the database's URL cannot be read", hint=FORM) from error
    options: dict[str, object] = {"server_settings": {"application_name": "seaway"}}
    for name, value in (
        ("host", unquote(parts.hostname or "")),
        ("port", port),
        ("user", unquote(parts.username or "")),
        ("password", None if parts.password is None else unquote(parts.password)),
        ("database", unquote(parts.path.lstrip("/"))),
    ):
        if value:
            options[name] = value
    if "/" in parts.path.lstrip("/"):
        raise ConfigError("the database's URL names no single database", hint=FORM)
    pgbouncer = False
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name == "pgbouncer":
            pgbouncer = _boolean(name, text)
        elif name == "application_name":
            options["server_settings"] = {"application_name": text}
        elif name == "connect_timeout":
            options["timeout"] = _seconds(name, text)
        elif name in _PASSED_ON:
            options[_PASSED_ON[name]] = text
        else:
            known = ", ".join(sorted([*_PASSED_ON, "application_name", "connect_timeout"]))
            raise ConfigError(
                f"the database's URL has an unknown option {name!r}",
                hint=f"it takes {known} and pgbouncer",
            )
    host = options.get("host", "localhost")
    where = f"{host}:{port}" if port else str(host)
    shown = f"postgresql://{where}/{options.get('database', '')}"
    return Address(shown, pgbouncer, options)


def _boolean(name: str, text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ConfigError(f"the database's URL has {name}={text!r}", hint="true or false")


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ConfigError(f"the database's URL has {name}={text!r}", hint="a number of seconds")
    return seconds
