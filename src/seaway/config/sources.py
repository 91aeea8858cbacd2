"""The sources beside the file: environment variables and the nats CLI's contexts.

Owns: their names and their places. Guarantees: gives values in the file's own shape, so that one
validation serves all; a context that is named but missing is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seaway.errors import ConfigError

_NATS_VARIABLES = {
    "NATS_URL": "url",
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CA": "tls_ca",
    "NATS_CERT": "tls_cert",
    "NATS_KEY": "tls_key",
    "NATS_CONTEXT": "context",
}
_VARIABLES = {
    "SEAWAY_DATABASE_URL": "database",
    "SEAWAY_DATABASE_SCHEMA": "database_schema",
    "SEAWAY_PROFILE": "profile",
}
_FLAGS = {
    "database": "--database",
    "profile": "--profile",
    "url": "--server",
    "tls_ca": "--tlsca",
    "tls_cert": "--tlscert",
    "tls_key": "--tlskey",
    "tls_first": "--tlsfirst",
    "jetstream_domain": "--js-domain",
    "jetstream_api_prefix": "--js-api-prefix",
    "inbox_prefix": "--inbox-prefix",
}
_CONTEXT_KEYS = {
    "url": "url",
    "creds": "creds",
    "nkey": "nkey",
    "user": "user",
    "password": "password",
    "token": "token",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
    "tls_first": "tls_first",
    "jetstream_domain": "jetstream_domain",
    "jetstream_api_prefix": "jetstream_api_prefix",
    "inbox_prefix": "inbox_prefix",
}
_WITHOUT_EFFECT = frozenset({"name", "description", "color_scheme", "jetstream_event_prefix"})
"""Of the nats CLI's own screens; advisories are captured by a stream, under their own subjects."""
_PATHS = frozenset({"creds", "nkey", "tls_ca", "tls_cert", "tls_key"})


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's shape, of the variables that are set and not empty."""
    nats = {key: environ[name] for name, key in _NATS_VARIABLES.items() if environ.get(name)}
    values: dict[str, Any] = {
        key: environ[name] for name, key in _VARIABLES.items() if environ.get(name)
    }
    return {**values, "nats": nats} if nats else values


def variable_of(location: tuple[str | int, ...]) -> str:
    """The environment variable that ``location`` has its value from; only of those that have."""
    table = _NATS_VARIABLES if location[:1] == ("nats",) else _VARIABLES
    return next(name for name, key in table.items() if key == location[-1])


def flag_of(location: tuple[str | int, ...]) -> str:
    """The root option that gives ``location``."""
    name = str(location[-1])
    return _FLAGS.get(name, f"--{name}")


def from_nats_context(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The ``nats`` section that the nats CLI's context ``name`` describes."""
    base = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~", ".config"))
    folder = base.expanduser() / "nats" / "context"
    path = folder / f"{name}.json"
    if Path(name).name != name:
        raise ConfigError(f"{name!r} is not the name of a NATS context")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(entry.stem for entry in folder.glob("*.json")) if folder.is_dir() else []
        raise ConfigError(
            f"there is no NATS context {name!r} in {folder}",
            hint=f"known: {', '.join(known)}" if known else "make one with `nats context add`",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the NATS context cannot be read: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise ConfigError("the NATS context is not a JSON object", where=str(path))
    given = {field: value for field, value in data.items() if value}
    if foreign := sorted(given.keys() - _CONTEXT_KEYS.keys() - _WITHOUT_EFFECT):
        # Passed over, it would be another server or another user that is spoken to.
        raise ConfigError(
            f"the NATS context has {foreign[0]}, which Seaway cannot do", where=str(path)
        )
    return {
        key: str(Path(str(given[field])).expanduser()) if key in _PATHS else given[field]
        for field, key in _CONTEXT_KEYS.items()
        if field in given
    }
