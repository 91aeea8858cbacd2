"""Certificates for tests: an authority and what it signs, in DER made by hand, of Ed25519 keys.

No more of X.509 than TLS asks for. The keys are PyNaCl's, which the NATS client's nkeys bring.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from nacl.signing import SigningKey

_SERIALS = itertools.count(1000)
_ED25519 = bytes.fromhex("300506032b6570")  # SEQUENCE { OID 1.3.101.112 }


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size) + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _number(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def _bits(content: bytes) -> bytes:
    return _der(0x03, b"\0", content)


def _name(common: str) -> bytes:
    kind = bytes.fromhex("0603550403")
    return _sequence(_der(0x31, _sequence(kind, _der(0x0C, common.encode()))))


def _time(at: datetime) -> bytes:
    return _der(0x17, at.strftime("%y%m%d%H%M%SZ").encode())


def _extension(oid: str, content: bytes, *, critical: bool = False) -> bytes:
    flag = _der(0x01, b"\xff") if critical else b""
    return _sequence(bytes.fromhex(oid), flag, _der(0x04, content))


def _pem(kind: str, der: bytes) -> str:
    text = base64.encodebytes(der).decode().replace("\n", "")
    lines = "\n".join(text[n : n + 64] for n in range(0, len(text), 64))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n"


@dataclass(frozen=True)
class Certificate:
    """Its files: ``cert`` and ``key``."""

    cert: Path
    key: Path


class Authority:
    """Signs for servers and clients. ``cert``: what trusts them."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._key = SigningKey.generate()
        self._id = bytes(self._key.verify_key)[:20]
        basic = _extension("0603551d13", _sequence(_der(0x01, b"\xff")), critical=True)
        usage = _extension("0603551d0f", _der(0x03, b"\x01\x06"), critical=True)
        which = _extension("0603551d0e", _der(0x04, self._id))
        pem = self._sign(name, self._key, timedelta(days=1), basic, usage, which)
        self.cert = folder / f"{name}.pem"
        self.cert.write_text(pem)

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        lasts: timedelta = timedelta(days=1),
    ) -> Certificate:
        """For a server of these ``hosts``, or for a client. ``lasts`` below 0: expired."""
        names = [
            _der(0x87, ip_address(host).packed)
            if host.replace(".", "").isdigit()
            else _der(0x82, host.encode())
            for host in hosts
        ]
        by = _extension("0603551d23", _sequence(_der(0x80, self._id)))
        usage = _extension("0603551d0f", _der(0x03, b"\x07\x80"), critical=True)
        key = SigningKey.generate()
        which = _extension("0603551d0e", _der(0x04, bytes(key.verify_key)[:20]))
        pem = self._sign(
            name, key, lasts, _extension("0603551d11", _sequence(*names)), by, usage, which
        )
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        made.cert.write_text(pem)
        seed = _der(0x04, _der(0x04, bytes(key)))
        made.key.write_text(_pem("PRIVATE KEY", _sequence(_number(0), _ED25519, seed)))
        return made

    def _sign(self, name: str, key: SigningKey, lasts: timedelta, *extensions: bytes) -> str:
        now = datetime.now(UTC)
        content = _sequence(
            _der(0xA0, _number(2)),
            _number(next(_SERIALS)),
            _ED25519,
            _name(self._name),
            _sequence(_time(now - timedelta(days=2)), _time(now + lasts)),
            _name(name),
            _sequence(_ED25519, _bits(bytes(key.verify_key))),
            _der(0xA3, _sequence(*extensions)),
        )
        signature = self._key.sign(content).signature
        return _pem("CERTIFICATE", _sequence(content, _ED25519, _bits(signature)))
