"""Why a server could not be connected to, in one line. Pure.

Owns: which cause is the configuration's (``ConfigError``: waiting would not mend it) and which is
the server's (``BrokerUnavailable``: it may come back). Guarantees: no secret is in it.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

from seaway.brokers.jetstream.transport import NotNats, Step
from seaway.errors import BrokerUnavailable, ConfigError, SeawayError

_REFUSED = re.compile(r"authorization violation|authentication (expired|revoked)", re.IGNORECASE)
"""What the protocol has no code for: an ``-ERR`` is a text."""

_EXPIRED, _HOST, _ADDRESS = 10, 62, 64  # X509_V_ERR_...
_CERTIFICATE_HINTS = {
    _EXPIRED: "the server's has to be renewed, or this machine's clock is wrong",
    _HOST: "connect by a name that is in it",
    _ADDRESS: "connect by a name or an address that is in it",
}
_TRUST = "tls_ca, --tlsca or NATS_CA name the authority that it is from"
_CERTIFY = "tls_cert and tls_key, --tlscert and --tlskey, NATS_CERT and NATS_KEY"
_LOGIN = "--creds, --nkey, --token, --user and --password, or the matching NATS_ variables"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed: at which ``url`` (nothing secret in it), how far it came, and what we had.

    ``asked``: whether the server asks for a client's certificate.
    """

    url: str
    step: Step
    known: bool
    """Whether we had said who we are."""
    certified: bool
    asked: bool = False
    tls_first: bool = False


def refusal(attempt: Attempt, error: BaseException) -> SeawayError:
    """What to tell of ``error``."""
    url, words = attempt.url, describe(error)
    if isinstance(error, ConfigError):
        return error
    if _REFUSED.search(words):
        return ConfigError(
            f"{url} refuses these credentials: {words}"
            if attempt.known
            else f"{url} wants to know who we are: {words}",
            hint=_LOGIN,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _CERTIFICATE_HINTS.get(error.verify_code, _TRUST)
        return ConfigError(f"{url}: its certificate is not accepted: {words}", hint=hint)
    if attempt.asked and not attempt.certified and attempt.step in ("tls", "login"):
        return ConfigError(f"{url} asks for a client's certificate: {words}", hint=_CERTIFY)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        if "alert" in words:
            return ConfigError(f"{url} does not accept our certificate: {words}", hint=_CERTIFY)
        if attempt.tls_first:
            return ConfigError(
                f"{url} does not begin with TLS: {words}", hint="leave out tls_first, --tlsfirst"
            )
        return ConfigError(f"{url}: no TLS with it: {words}")
    return BrokerUnavailable(f"no NATS server answers at {url}: {_state(attempt, error, words)}")


def no_tls(url: str) -> ConfigError:
    """Where TLS was asked for."""
    return ConfigError(
        f"{url} offers no TLS",
        hint="nats:// without tls_ca, tls_cert and tls_key, if that is meant",
    )


def describe(error: BaseException) -> str:
    """``error`` in the words of whoever raised it, without what is ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None):
        return error.reason.replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    text = str(error).removeprefix("nats: ")
    if text[:1] == text[-1:] == "'":
        text = text[1:-1]
    return text or type(error).__name__


def _state(attempt: Attempt, error: BaseException, words: str) -> str:
    if isinstance(error, NotNats):
        return f"{words}, and that is not NATS"
    if attempt.step == "greeting" and isinstance(error, TimeoutError | ConnectionResetError):
        return (
            "it takes the connection and says nothing (it is no NATS server, or begins with TLS: "
            "tls_first, --tlsfirst)"
        )
    if attempt.step == "tls" and isinstance(error, TimeoutError):
        return "no answer in time to the beginning of TLS"
    return words
