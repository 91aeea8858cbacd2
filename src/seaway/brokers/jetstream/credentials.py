"""Key files: an nkey's seed, and the ``.creds`` of a user with a JWT.

Owns: reading them and signing. Guarantees: a file that is not right is a ``ConfigError`` that names
the setting and shows nothing of it. Files are read for each connection, so that a renewed one is
used.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nkeys

from seaway.errors import ConfigError

_BLOCK = r"-{3,} *BEGIN %s *-{3,}\s+(\S+)\s+-{3,} *END %s *-{3,}"
_JWT = re.compile(_BLOCK % ("NATS USER JWT", "NATS USER JWT"))
_SEED = re.compile(_BLOCK % ("USER NKEY SEED", "USER NKEY SEED"))
_SHOWN = 200


class Keys(NamedTuple):
    """Who signs the server's nonce. ``public``: of an nkey; ``jwt``: of a user that has one."""

    sign: Callable[[str], bytes]
    public: str | None = None
    jwt: Callable[[], bytes] | None = None


def nkey(path: Path) -> Keys:
    """The user whose seed is in ``path``."""

    def pair() -> Any:
        return _pair("nkey", read_file("nkey", path).strip())

    return Keys(lambda nonce: _signed(pair(), nonce), public=pair().public_key.decode())


def creds(path: Path) -> Keys:
    """The user whose JWT and seed are in ``path``."""

    def part(pattern: re.Pattern[str]) -> str:
        found = pattern.search(read_file("creds", path))
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


def read_file(setting: str, path: Path) -> str:
    """The text of a file that ``setting`` names."""
    check_file(setting, path)
    try:
        return path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"nats.{setting}: {path} cannot be read: {reason}") from error


def check_file(setting: str, path: Path) -> None:
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
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except (nkeys.NkeysError, ValueError, IndexError):
        # Without its cause: that may repeat the seed.
        raise ConfigError(f"nats.{setting}: the file holds no nkey seed, like SU...") from None


def _signed(pair: Any, nonce: str) -> bytes:
    return base64.b64encode(pair.sign(nonce.encode()))
