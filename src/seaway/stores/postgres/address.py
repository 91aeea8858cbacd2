"""Where a PostgreSQL database is: what a URL and libpq's password file say, as asyncpg wants to be
told. Pure, but for a look at files.

Owns: the form of the URL, so that it means the same whatever driver reads it elsewhere, and that of
the password file. asyncpg reads it too, but takes an escaped colon or backslash for two characters
(asyncpg 0.32), so a password with one is refused by the server. Guarantees: the password is in
nothing that is printed, and nothing of the file in an error; a file that others can read is left
alone, as libpq does.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from seaway.errors import ConfigError

FORM = "postgresql://user:password@host:5432/database"
_AS_LIBPQ = {"database": "dbname", "timeout": "connect_timeout", "ssl": "sslmode"}
"""asyncpg's names that libpq has others for."""
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


# ------------------------------------------------------------------- the password file

_FIELD = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")


def password_for(address: Address, environ: Mapping[str, str]) -> str | None:
    """The password of the first line that fits; ``None`` where none does, or one is given."""
    given = address.options
    if given.get("password") or environ.get("PGPASSWORD"):
        return None
    home = Path(environ.get("HOME") or "~").expanduser()
    path = Path(str(given.get("passfile") or environ.get("PGPASSFILE") or home / ".pgpass"))
    user = str(given.get("user") or environ.get("PGUSER") or getpass.getuser())
    database = str(given.get("database") or environ.get("PGDATABASE") or user)
    hosts = _several(given.get("host") or environ.get("PGHOST") or "localhost")
    ports = _several(given.get("port") or environ.get("PGPORT") or "5432")
    if len(ports) < len(hosts):
        ports = ports * len(hosts)
    places = [
        ("localhost" if host.startswith("/") else host, port, database, user)
        for host, port in zip(hosts, ports, strict=False)
    ]
    for *fields, password in _lines(path):
        for place in places:
            if all(field in ("*", own) for field, own in zip(fields, place, strict=True)):
                return password or None
    return None


def libpq_options(address: Address) -> dict[str, Any]:
    """What libpq is told of ``address``; what is left out it finds as it always does."""
    given = dict(options_of(address))
    (settings, dsn) = (given.pop(name, {}) for name in ("server_settings", "dsn"))
    options = {_AS_LIBPQ.get(name, name): _listed(value) for name, value in given.items()}
    if "connect_timeout" in options:
        options["connect_timeout"] = max(2, ceil(float(options["connect_timeout"])))
    files = dict(parse_qsl(urlsplit(str(dsn)).query)) if dsn else {}
    return {**options, **settings, **files}


def _listed(value: object) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def options_of(address: Address) -> dict[str, Any]:
    """What the driver is told of ``address``."""
    password = password_for(address, os.environ)
    return {**address.options, **({} if password is None else {"password": password})}


def _several(value: object) -> list[str]:
    listed = value if isinstance(value, list) else str(value).split(",")
    return [str(one) for one in listed]


def _lines(path: Path) -> Sequence[Sequence[str]]:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return []
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return []
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    fields = [_fields(line) for line in lines]
    return [one for one in fields if len(one) == 5]


def _fields(line: str) -> list[str]:
    """Host, port, database, user, password; the last goes to the line's end."""
    found: list[str] = []
    place = 0
    while len(found) < 4 and (match := _FIELD.match(line, place)) and match.end() > place:
        found.append(match[1])
        place = match.end()
    return [re.sub(r"\\(.)", r"\1", one) for one in (*found, line[place:])]
