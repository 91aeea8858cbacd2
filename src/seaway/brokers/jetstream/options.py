"""What the settings say to the NATS client: who we are, TLS and times.

Owns: reading the files that they name. Must not know a connection. Guarantees: what cannot be used
is a ``ConfigError`` that names the setting, before anything is sent.
"""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seaway.brokers.jetstream.credentials import Keys, check_file, creds, nkey
from seaway.config import WEB_SCHEMES, NatsSettings, ServerUrl
from seaway.errors import ConfigError

_RECONNECT_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Login:
    """What a server is told of us."""

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __bool__(self) -> bool:
        return self != Login()


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """``connect``: keyword arguments of the client's. ``logins``: by host and port, where URLs have
    them; ``login`` at every other server."""

    connect: Mapping[str, Any]
    login: Login
    logins: Mapping[tuple[str, int | None], Login] = field(default_factory=dict)
    keys: Keys | None = None
    tls: ssl.SSLContext | None = None
    """Wanted: a server that has none is refused."""
    certified: bool = False
    """Whether there is a certificate of ours."""

    @property
    def known(self) -> bool:
        """Whether there is anything to say of who we are."""
        return bool(self.login) or bool(self.logins) or self.keys is not None


def client_options(settings: NatsSettings) -> ClientOptions:
    """All that a connection needs; ``ConfigError`` where that cannot be."""
    servers, keys = settings.servers, None
    if settings.creds is not None:
        keys = creds(settings.creds)
    elif settings.nkey is not None:
        keys = nkey(settings.nkey)
    if any(server.url.startswith(WEB_SCHEMES) for server in servers):
        if importlib.util.find_spec("aiohttp") is None:
            raise ConfigError("nats.url: WebSockets need another package: pip install aiohttp")
        if not all(server.url.startswith(WEB_SCHEMES) for server in servers):
            raise ConfigError("nats.url: ws and wss do not go together with nats and tls")
    login, logins = _login(settings), {}
    if not login:
        logins = {
            (one.host, one.port): Login(one.user, one.password, one.token)
            for one in servers
            if one.user is not None or one.token is not None
        }
        # The servers of a cluster tell of each other without one.
        login = next(iter(logins.values()), login)
    return ClientOptions(
        connect={
            "reconnect_time_wait": _RECONNECT_WAIT_SECONDS,
            "connect_timeout": settings.connect_timeout.total_seconds(),
            "tls_handshake_first": settings.tls_first,
        },
        login=login,
        logins=logins,
        keys=keys,
        tls=_tls(settings, servers),
        certified=settings.tls_cert is not None,
    )


def _login(settings: NatsSettings) -> Login:
    if settings.user is not None:
        if settings.password is None:
            raise ConfigError(
                "nats.user has no password", hint="NATS_PASSWORD; a token is nats.token, NATS_TOKEN"
            )
        return Login(settings.user, settings.password.get_secret_value())
    if settings.password is not None and not any(one.user for one in settings.servers):
        raise ConfigError("nats.password has no user", hint="NATS_USER")
    return Login(token=settings.token.get_secret_value() if settings.token is not None else None)


def _tls(settings: NatsSettings, servers: tuple[ServerUrl, ...]) -> ssl.SSLContext | None:
    ca, cert, key = settings.tls_ca, settings.tls_cert, settings.tls_key
    if not (ca or cert or key or settings.tls_first) and not any(
        one.url.startswith(("tls://", "wss://")) for one in servers
    ):
        return None
    if key is not None and cert is None:
        raise ConfigError("nats.tls_key has no certificate", hint="tls_cert, --tlscert, NATS_CERT")
    for setting, path in (("tls_ca", ca), ("tls_cert", cert), ("tls_key", key)):
        if path is not None:
            check_file(setting, path)
    try:
        context = ssl.create_default_context(cafile=str(ca.expanduser()) if ca else None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"nats.tls_ca: {ca} holds no certificate: {_words(error)}") from error
    if cert is not None:
        try:
            # A key that asks for a password would ask the terminal for it.
            context.load_cert_chain(
                cert.expanduser(), key.expanduser() if key else None, password=lambda: ""
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"nats.tls_cert: {cert} cannot be used: {_words(error)}",
                hint="the certificate, and the key without a password that belongs to it",
            ) from error
    return context


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not readable").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or "not readable"
