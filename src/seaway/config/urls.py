"""URLs of servers and databases: what is secret in them, and what may be shown. Pure.

Guarantees: ``redact_url`` shows no part of a password, also where the URL is not a right one.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

NATS_SCHEMES = ("nats", "tls", "ws", "wss")
WEB_SCHEMES = ("ws", "wss")

_ANOTHER = re.compile(r",(?=\s*[a-z]+://)", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(r"(?i)((?:^|[?&])(?:ssl)?password=)[^&#]*")


def redact_url(url: str) -> str:
    """``url`` (or several, by comma) with ``***`` for each password and token in it."""
    return ",".join(_redact_one(part.strip()) for part in _ANOTHER.split(url))


def _redact_one(url: str) -> str:
    scheme, colons, rest = url.partition("://")
    if not colons:
        scheme, rest = "", url
    servers = not scheme or scheme.lower() in NATS_SCHEMES
    # Where a password was not encoded, its own @ or / make it look like a host and a path.
    place, mark, query = (rest, "", "") if servers else rest.partition("?")
    secret, at, host = place.rpartition("@")
    try:
        _ = urlsplit(f"x://{host}").port
    except ValueError:
        if servers or "," not in host:  # Of several hosts each has a port of its own.
            return f"{scheme}{colons}***"
    shown = ""
    if at:
        user, colon, _ = secret.partition(":")
        # Without a colon the whole is a token, as secret as a password (nats), or a user (sql).
        shown = f"{user}:***@" if colon else ("***@" if servers else f"{user}@")
    query = _SECRET_PARAMETER.sub(r"\1***", query)
    return f"{scheme}{colons}{shown}{host}{mark}{query}"


class ServerUrl(NamedTuple):
    """One server: ``url`` without what is secret, and the login that it was written with."""

    url: str
    host: str
    port: int | None
    user: str | None = None
    password: str | None = None
    token: str | None = None


def server_urls(text: str) -> tuple[ServerUrl, ...]:
    """Each of ``text``, by comma. ``ValueError`` for what is not one; it repeats nothing of it."""
    try:
        return tuple(_server(part.strip()) for part in text.split(","))
    except ValueError:
        # Without its cause, which may hold a part of a password.
        raise ValueError(_ENCODE if "@" in text else _FORM) from None


def _server(text: str) -> ServerUrl:
    url = text if "://" in text else f"nats://{text}"
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    rest = f"{parts.path}?{parts.query}#{parts.fragment}"
    bare = rest in ("?#", "/?#") or (parts.scheme in WEB_SCHEMES and "@" not in rest)
    if parts.scheme not in NATS_SCHEMES or not host or port == 0 or not bare:
        raise ValueError
    place = parts.netloc.rpartition("@")[2]
    shown = parts._replace(netloc=place).geturl()
    if parts.username is None:
        return ServerUrl(shown, host, port)
    user = unquote(parts.username)
    if parts.password is None:
        return ServerUrl(shown, host, port, token=user)
    return ServerUrl(shown, host, port, user=user, password=unquote(parts.password))


_FORM = "is not a server's URL, like nats://127.0.0.1:4222"
_ENCODE = (
    "is not a server's URL, like nats://user:password@127.0.0.1:4222; in a password @ is written "
    "as %40, / as %2F, : as %3A, comma as %2C, % as %25"
)
