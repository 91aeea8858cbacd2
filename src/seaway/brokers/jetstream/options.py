"""What the settings say to the NATS client: credentials, TLS and times, as its own options.

Owns: reading the files that they name. Must not know a connection. Guarantees: a file that is not
there is a ``ConfigError`` that names the setting.
"""

from __future__ import annotations

import ssl
from typing import Any

from seaway.config import NatsSettings
from seaway.errors import ConfigError

_RECONNECT_WAIT_SECONDS = 0.25


def client_options(settings: NatsSettings) -> dict[str, Any]:
    """Keyword arguments of its ``connect``."""
    options: dict[str, Any] = {
        "reconnect_time_wait": _RECONNECT_WAIT_SECONDS,
        "connect_timeout": settings.connect_timeout.total_seconds(),
    }
    for name, path in (
        ("creds", settings.creds),
        ("nkey", settings.nkey),
        ("tls_cert", settings.tls_cert),
        ("tls_key", settings.tls_key),
        ("tls_ca", settings.tls_ca),
    ):
        if path is not None and not path.expanduser().is_file():
            raise ConfigError(f"nats.{name}: {path} is not a file")
    if settings.creds is not None:
        options["user_credentials"] = str(settings.creds.expanduser())
    if settings.nkey is not None:
        options["nkeys_seed"] = str(settings.nkey.expanduser())
    if settings.user is not None:
        options["user"] = settings.user
    if settings.password is not None:
        options["password"] = settings.password.get_secret_value()
    if settings.token is not None:
        options["token"] = settings.token.get_secret_value()
    if settings.tls_ca or settings.tls_cert or "tls://" in settings.url:
        context = ssl.create_default_context(
            cafile=str(settings.tls_ca.expanduser()) if settings.tls_ca else None
        )
        if settings.tls_cert is not None:
            context.load_cert_chain(
                settings.tls_cert.expanduser(),
                settings.tls_key.expanduser() if settings.tls_key else None,
            )
        options["tls"] = context
    return options
