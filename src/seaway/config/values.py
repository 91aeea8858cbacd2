"""Durations, sizes, rates and URLs as people write them: ``7d``, ``10GB``, ``50/min``. Pure.

Owns: their text forms, and what of a URL may be shown. Guarantees: ``parse(format(x)) == x``;
anything else raises ``ValueError`` that shows a right form, and no unit is ever guessed;
``redact_url`` shows no part of a password, also where the URL is not a right one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

UNLIMITED = -1
"""A size or count without a limit, as the server writes it."""

_MICROSECOND = timedelta(microseconds=1)
_DURATION_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": _MICROSECOND,
}
_PRINTED_UNITS = ("d", "h", "m", "s", "ms", "us")
_DURATION = re.compile(
    "(?=.)"
    + "".join(
        rf"(?:(?P<{unit}>[0-9]{{1,18}}(?:\.[0-9]{{1,6}})?){unit})?" for unit in _DURATION_UNITS
    )
)

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,19})(?:\s*(?:([KMGTP])(?:i?B)?|B))?", re.IGNORECASE)
_MAX_SIZE = (1 << 63) - 1

_RATE_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_RATE_NAMES = {"sec": "s", "second": "s", "m": "min", "minute": "min", "hour": "h", "day": "d"}
_RATE = re.compile(r"([0-9]{1,12})\s*/\s*([a-z]+)")

_DURATION_FORM = "a duration is written with its unit, like 7d, 120s, 1h30m or 250ms"
_SIZE_FORM = "a size is written like 10GB, 1MiB, 4096 (bytes) or unlimited"
_RATE_FORM = "a rate is written like 50/min, 5/s or 100/h"


def parse_duration(value: object) -> timedelta:
    """``1h30m`` as 90 minutes; units w d h m s ms us, each at most once, the largest first.

    Zero needs no unit. A ``timedelta`` is returned as it is.
    """
    if isinstance(value, timedelta):
        if value < timedelta():
            raise ValueError(f"{value} is negative")
        return value
    if value in ("0", 0) and not isinstance(value, bool):
        return timedelta()
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; {_DURATION_FORM}")
    microseconds = sum(
        Fraction(number) * (_DURATION_UNITS[unit] // _MICROSECOND)
        for unit, number in match.groupdict().items()
        if number is not None
    )
    if Fraction(microseconds).denominator != 1:
        raise ValueError(f"{value!r} is finer than a microsecond; {_DURATION_FORM}")
    # The server keeps signed 64-bit nanoseconds: 292 years.
    if microseconds * 1000 > _MAX_SIZE:
        raise ValueError(f"{value!r} is longer than 292 years; {_DURATION_FORM}")
    return int(microseconds) * _MICROSECOND


def format_duration(value: timedelta) -> str:
    """``7d``, ``2m``, ``1h30m``, ``0``: the shortest that ``parse_duration`` reads back."""
    rest, parts = value, []
    for unit in _PRINTED_UNITS:
        count, rest = divmod(rest, _DURATION_UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def to_nanoseconds(value: timedelta) -> int:
    """The server's unit, exactly."""
    return value // _MICROSECOND * 1000


def from_nanoseconds(value: int) -> timedelta:
    """A duration of the server, cut to microseconds."""
    return value // 1000 * _MICROSECOND


def parse_size(value: object) -> int:
    """``10GB`` as 10 * 1024^3 bytes, as the nats CLI reads it; ``unlimited`` or -1 gives -1."""
    if isinstance(value, str):
        if value.strip().lower() in ("unlimited", "-1"):
            return UNLIMITED
        match = _SIZE.fullmatch(value.strip())
        if match is not None:
            size = int(match[1]) * _SIZE_UNITS[(match[2] or "").upper()]
            if size <= _MAX_SIZE:
                return size
    elif isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= _MAX_SIZE:
        return value
    raise ValueError(f"{value!r} is not a size; {_SIZE_FORM}")


def format_size(value: int) -> str:
    """``10GB``, ``1536MB``, ``1000B``, ``unlimited``: exact, in the largest unit that divides."""
    if value < 0:
        return "unlimited"
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if value and value % factor == 0:
            return f"{value // factor}{unit}B"
    return "0"


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` in each ``per``: ``Rate.parse("50/min")``."""

    count: int
    per: timedelta

    @classmethod
    def parse(cls, value: object) -> Rate:
        """From ``50/min``: per s, min, h or d (also second, minute, hour, day)."""
        if isinstance(value, Rate):
            return value
        match = _RATE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        unit = _RATE_NAMES.get(match[2], match[2]) if match else ""
        if match is None or unit not in _RATE_UNITS:
            raise ValueError(f"{value!r} is not a rate; {_RATE_FORM}")
        return cls(int(match[1]), _RATE_UNITS[unit])

    def __str__(self) -> str:
        for unit, per in _RATE_UNITS.items():
            if per == self.per:
                return f"{self.count}/{unit}"
        return f"{self.count} in {format_duration(self.per)}"

    @property
    def per_minute(self) -> float:
        """The same rate in events a minute."""
        return self.count / (self.per / timedelta(minutes=1))


# ------------------------------------------------------------------------------- URLs

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
