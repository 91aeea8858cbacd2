"""``settings.SEAWAY``: a mapping shaped like ``seaway.yaml``, its database from ``DATABASES``.

    SEAWAY = {
        "using": "default",                     # the alias whose database has Seaway's tables
        "nats": {"url": "nats://nats:4222"},
        "contexts": ["sea"],
        "consumers": [{"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}],
    }

Owns: what Django's settings mean for Seaway. Guarantees: the database is Django's own, also the one
that its test runner makes, unless ``database`` says another; what cannot be carried over is refused
by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.connection import ConnectionDoesNotExist

from seaway.databases import engines
from seaway.databases.engines import SQLITE, of_dialect
from seaway.errors import ConfigError

if TYPE_CHECKING:
    from seaway.config import Settings

SHOWN = "settings.SEAWAY"
_MOVED = {
    "schema": "database_schema",
    "notify": "outbox: {'notify': ...}",
    "max_message_bytes": "outbox: {'max_message_bytes': ...}",
    "limits": "streams: [{'name': ..., 'max_msg_size': ...}]",
}
_CARRIED = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "passfile",
    "target_session_attrs",
    "application_name",
    "connect_timeout",
)
_DJANGOS_OWN = ("pool", "isolation_level", "server_side_binding", "client_encoding")


def given() -> Mapping[str, Any]:
    """What the settings say; ``ConfigError`` where that is no mapping, or shaped as it once was."""
    found = getattr(settings, "SEAWAY", {})
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{SHOWN} is {type(found).__name__}, not a mapping", hint="like {'contexts': ['sea']}"
        )
    for old, new in _MOVED.items():
        if old in found:
            raise ConfigError(f"{SHOWN} has {old!r}", hint=f"it is shaped like the file: {new}")
    return found


def alias() -> str:
    """Whose database has Seaway's tables; ``ConfigError`` where ``DATABASES`` has it not."""
    found = given().get("using", DEFAULT_DB_ALIAS)
    if found not in connections:
        raise ConfigError(
            f"{SHOWN}: using: DATABASES has no {found!r}", hint=f"it has {', '.join(connections)}"
        )
    return str(found)


def mapping() -> dict[str, Any]:
    """The settings in the file's shape, with a database."""
    found = {name: value for name, value in given().items() if name != "using"}
    return {"database": url_of(alias()), **found}


def configured() -> Settings:
    """The settings, validated; ``ConfigError`` names the key's path."""
    from seaway.config import settings_from_mapping  # Not for projects that leave SEAWAY out.

    return settings_from_mapping(mapping(), shown=SHOWN)


def url_of(using: str) -> str:
    """The URL of Django's database ``using``, as Seaway's own connections take it.

    ``ConfigError`` for what Seaway has no store for, and for an option of ``DATABASES`` that Seaway
    cannot carry over.
    """
    try:
        connection = connections[using]
    except ConnectionDoesNotExist as error:
        raise ConfigError(str(error)) from error
    engine = of_dialect(connection.vendor)
    if engine is None:
        raise ConfigError(
            f"the database {using} is {connection.vendor}, and Seaway's tables are for "
            f"{engines.SHOWN}",
            hint=f"name another alias: {SHOWN} = {{'using': ...}}",
        )
    said = connection.settings_dict
    if engine is not SQLITE:
        return _server(using, said)
    name = str(said["NAME"])
    if name == ":memory:" or "mode=memory" in name:
        # As the test runner makes it: good for writing, refused where a relay would open it.
        return "sqlite:///:memory:"
    if name.startswith("file:"):
        raise ConfigError(
            f"the database {using} is given as a URI", hint="give the file's path as its NAME"
        )
    return f"sqlite:///{quote(os.path.abspath(name))}"


def _server(using: str, said: Mapping[str, Any]) -> str:
    options: dict[str, Any] = {}
    for name, value in said.get("OPTIONS", {}).items():
        if name in _CARRIED:
            options[name] = value
        elif name not in _DJANGOS_OWN:
            raise ConfigError(
                f"the database {using} has OPTIONS[{name!r}], which Seaway's own connections do "
                "not take",
                hint=f"say its URL: {SHOWN} = {{'database': 'postgresql://...'}}",
            )
    host, port = str(said["HOST"] or ""), str(said["PORT"] or "")
    if host.startswith("/"):
        options["host"], host = host, ""
    hosts, ports = host.split(","), port.split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [
        f"{quote(one)}:{where}" if where and one else quote(one)
        for one, where in zip(hosts, ports, strict=True)
    ]
    login = ":".join(quote(str(said[part]), safe="") for part in ("USER", "PASSWORD") if said[part])
    place = ",".join(places) or (f":{port}" if port else "")
    query = f"?{urlencode(options)}" if options else ""
    return f"postgresql://{login + '@' if login else ''}{place}/{quote(str(said['NAME']))}{query}"
