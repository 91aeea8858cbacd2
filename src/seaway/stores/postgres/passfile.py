"""Passwords from libpq's password file, as libpq reads it.

Owns: the file's form. asyncpg reads it too, but takes an escaped colon or backslash for two
characters (asyncpg 0.32), so a password with one is refused by the server. Guarantees: nothing of
the file is in an error; a file that others can read is left alone, as libpq does.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seaway.stores.postgres.address import Address

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
