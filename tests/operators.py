"""A server that knows its users by JWT alone (operator mode), and their ``.creds``, for tests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys


class Identity:
    """An nkey: ``public`` and ``seed``, and what it signs."""

    def __init__(self, prefix: int) -> None:
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(seed))
        self.seed = seed.decode()
        self.public = self._pair.public_key.decode().rstrip("=")

    def sign(self, kind: str, subject: str, name: str, nats: Any, **claims: Any) -> str:
        """A JWT of ours about ``subject``."""
        body = {
            "iat": int(time.time()) - 60,
            "iss": self.public,
            "name": name,
            "sub": subject,
            "nats": {**nats, "type": kind, "version": 2},
            **claims,
        }
        digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        head = _coded(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        signed = f"{head}.{_coded(json.dumps(body).encode())}"
        return f"{signed}.{_coded(self._pair.sign(signed.encode()))}"


def user() -> Identity:
    """A user's nkey."""
    return Identity(nkeys.PREFIX_BYTE_USER)


class Operator:
    """An operator with one account, whose server's ``config`` is here, and its users."""

    def __init__(self) -> None:
        operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        unlimited = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1
        ) | {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        unlimited |= {"wildcards": True}
        account = operator.sign("account", self._account.public, "shop", {"limits": unlimited})
        system = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
        systems = operator.sign("account", system.public, "SYS", {"limits": {}})
        itself = operator.sign("operator", operator.public, "test", {})
        self.config = (
            f"operator: {itself}\nsystem_account: {system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{\n{self._account.public}: {account}\n"
            f"{system.public}: {systems}\n}}\n"
        )

    def creds(self, *, lasts: float | None = None, other: Identity | None = None) -> str:
        """The file of a new user. ``other``: signed with this key instead of its own."""
        one = user()
        claims = {} if lasts is None else {"exp": int(time.time() + lasts)}
        limits = {"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        jwt = self._account.sign("user", one.public, "ann", limits, **claims)
        seed = (other or one).seed
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
