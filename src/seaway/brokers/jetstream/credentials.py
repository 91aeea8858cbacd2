"""Credentials: who we log in as, and whose certificates we accept.

Owns: reading the files that the settings name. Must not know a connection. Guarantees: what cannot
be used is a ``ConfigError`` that names the setting and shows nothing secret, before anything is
sent. Key files are read for each connection, so that a renewed one is used.
"""

from __future__ import annotations

import base64
import importlib.util
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from seaway.config import WEB_SCHEMES, NatsSettings, ServerUrl
from seaway.errors import ConfigError

_BLOCK = r"-{3,} *BEGIN %s *-{3,}\s+(\S+)\s+-{3,} *END %s *-{3,}"
_JWT = re.compile(_BLOCK % ("NATS USER JWT", "NATS USER JWT"))
_SEED = re.compile(_BLOCK % ("USER NKEY SEED", "USER NKEY SEED"))
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Login:
    """What a server is told of us."""

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __bool__(self) -> bool:
        return self != Login()


class Keys(NamedTuple):
    """Who signs the server's nonce. ``public``: of an nkey; ``jwt``: of a user that has one."""

    sign: Callable[[str], bytes]
    public: str | None = None
    jwt: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """``logins``: by host and port, where URLs have them; ``login`` at every other server."""

    login: Login = field(default_factory=Login)
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


def credentials_of(settings: NatsSettings) -> Credentials:
    """All that a connection needs; ``ConfigError`` where that cannot be."""
    servers, keys = settings.servers, None
    if settings.creds is not None:
        keys = _creds(settings.creds)
    elif settings.nkey is not None:
        keys = _nkey(settings.nkey)
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
    return Credentials(
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
            _check_file(setting, path)
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


def _nkey(path: Path) -> Keys:
    """The user whose seed is in ``path``."""

    def pair() -> Any:
        return _pair("nkey", _read_file("nkey", path).strip())

    return Keys(lambda nonce: _signed(pair(), nonce), public=pair().public_key.decode())


def _creds(path: Path) -> Keys:
    """The user whose JWT and seed are in ``path``."""

    def part(pattern: re.Pattern[str]) -> str:
        found = pattern.search(_read_file("creds", path))
        if found is None:
            raise ConfigError(
                f"nats.creds: {path} is not a credentials file",
                hint="it holds a user's JWT and seed, as `nsc generate creds` writes them",
            )
        return found[1]

    part(_JWT)
    _pair("creds", part(_SEED))
    return Keys(
        lambda nonce: _signed(_pair("creds", part(_SEED)), nonce), jwt=lambda: part(_JWT).encode()
    )


def _read_file(setting: str, path: Path) -> str:
    """The text of a file that ``setting`` names."""
    _check_file(setting, path)
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"nats.{setting}: {path} cannot be read: {reason}") from error


def _check_file(setting: str, path: Path) -> None:
    """``ConfigError`` where there is none."""
    try:
        found = path.expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        found = False
    if found:
        return
    text = str(path)
    if "-----" in text or len(text) > _SHOWN or re.fullmatch(r"S[A-Z2-7]{40,}", text):
        # The secret itself, where the name of its file is meant.
        raise ConfigError(f"nats.{setting} names a file, and is not what would be in it")
    raise ConfigError(f"nats.{setting}: {path} is not a file")


def _pair(setting: str, seed: str) -> Any:
    import nkeys  # With a library of its own, which most have no use for.

    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except (nkeys.NkeysError, ValueError, IndexError):
        # Without its cause: that may repeat the seed.
        raise ConfigError(f"nats.{setting}: the file holds no nkey seed, like SU...") from None


def _signed(pair: Any, nonce: str) -> bytes:
    return base64.b64encode(pair.sign(nonce.encode()))
