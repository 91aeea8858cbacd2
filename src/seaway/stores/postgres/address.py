"""PostgreSQL URLs: what is in one, as asyncpg wants to be told. Pure, but for a look at files.

Owns: the form of the URL, so that it means the same whatever driver reads it elsewhere.
Guarantees: the password is in nothing that is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from seaway.errors import ConfigError

FORM = "postgresql://user:password@host:5432/database"
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_FILES = ("sslrootcert", "sslcert", "sslkey")
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

    What the URL leaves out, libpq's variables say (``PGHOST``, ``PGPASSWORD``, ...). Several hosts
    are tried in turn: ``postgresql://user@one:5432,two:5433/database``, best with
    ``?target_session_attrs=read-write``. Options after the ``?``: ``sslmode``, ``sslrootcert``,
    ``sslcert``, ``sslkey`` (files), ``host`` (a socket's folder), ``user``, ``password``,
    ``passfile``, ``target_session_attrs``, ``application_name``, ``connect_timeout`` (seconds) and
    ``pgbouncer``. ``ConfigError`` for anything else.
    """
    try:
        parts = urlsplit(url)
        # Read apart, since several hosts are no single one with one port.
        secret, _, where = parts.netloc.rpartition("@")
        login = urlsplit(f"//{secret}@x" if secret else "//x")
        places = [urlsplit(f"//{one}") for one in where.split(",")]
        hosts = [unquote(one.hostname or "") for one in places]
        ports = [one.port for one in places]
    except ValueError as error:
        raise ConfigError("the database's URL cannot be read", hint=FORM) from error
    host: object = hosts if len(hosts) > 1 else hosts[0]
    port: object = [one or 5432 for one in ports] if len(hosts) > 1 else ports[0]
    if len(hosts) > 1 and not all(hosts):
        raise ConfigError("the database's URL has an empty host among several", hint=FORM)
    options: dict[str, object] = {"server_settings": {"application_name": "seaway"}}
    for name, value in (
        ("host", host),
        ("port", port),
        ("user", unquote(login.username or "")),
        ("password", None if login.password is None else unquote(login.password)),
        ("database", unquote(parts.path.lstrip("/"))),
    ):
        if value:
            options[name] = value
    if "/" in parts.path.lstrip("/"):
        raise ConfigError("the database's URL names no single database", hint=FORM)
    pgbouncer, files = False, {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name == "pgbouncer":
            pgbouncer = _boolean(name, text)
        elif name == "application_name":
            options["server_settings"] = {"application_name": text}
        elif name == "connect_timeout":
            options["timeout"] = _seconds(name, text)
        elif name in _FILES:
            if not Path(text).expanduser().is_file():
                raise ConfigError(f"the database's URL: {name}: {text} is not a file")
            files[name] = str(Path(text).expanduser())
        elif name in _PASSED_ON:
            options[_PASSED_ON[name]] = text
        else:
            known = ", ".join(sorted([*_PASSED_ON, *_FILES, "application_name", "connect_timeout"]))
            raise ConfigError(
                f"the database's URL has an unknown option {name!r}",
                hint=f"it takes {known} and pgbouncer",
            )
    if files:
        # The driver takes the files' names in a URL alone; what is above wins over it.
        options["dsn"] = f"postgresql:///?{urlencode(files)}"
    where = where or str(options.get("host", "localhost"))
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
