"""Making a connection to the first server that answers, or saying in one line why there is none.

Owns: the order in which servers are tried, waiting for one, and which cause is the configuration's
(``ConfigError``: waiting would not mend it) and which is the server's (``BrokerUnavailable``: it
may come back). Guarantees: no secret is in what it says; what fails or is cancelled leaves nothing
open; waiting is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from datetime import timedelta

from seaway import logs
from seaway.brokers.jetstream.client import NotNats, describe, errors
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.credentials import credentials_of
from seaway.config import NatsSettings
from seaway.databases.tasks import to_its_end
from seaway.errors import BrokerUnavailable, ConfigError, SeawayError
from seaway.retry import Backoff
from seaway.telemetry import Telemetry

logger = logs.logger("seaway.nats")

_SLACK_SECONDS = 0.5
_GIVE_UP_SECONDS = 2

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


async def open_connection(
    settings: NatsSettings, *, telemetry: Telemetry, name: str, wait: bool
) -> Connection:
    """Connect. ``wait``: try for ever; otherwise ``BrokerUnavailable`` once every server failed.

    ``ConfigError`` where a server refuses the credentials, its TLS is not as the settings have it,
    or a file of theirs cannot be read; waiting would not mend it.
    """
    backoff, attempt = Backoff(timedelta(milliseconds=100), timedelta(seconds=2)), 0
    while True:
        try:
            connection = await _connect_to_any(settings, telemetry, name)
        except BrokerUnavailable as error:
            if not wait:
                raise
            attempt += 1
            if attempt == 1:
                logger.warning("waiting for the server: %s; trying on", error)
            await asyncio.sleep(backoff.delay(attempt).total_seconds())
        else:
            if attempt:
                logger.info("connected to %s", connection.server_info().url)
            return connection


async def _connect_to_any(settings: NatsSettings, telemetry: Telemetry, name: str) -> Connection:
    credentials = credentials_of(settings)
    servers = random.sample(settings.servers, len(settings.servers))
    limit = settings.connect_timeout.total_seconds() + _SLACK_SECONDS
    failures: list[SeawayError] = []
    for server in servers:
        connection = Connection(settings, telemetry, credentials)
        others = [one.url for one in servers if one is not server]
        try:
            async with asyncio.timeout(limit):
                await connection.open(server, others, name=name)
            return connection
        except BaseException as error:
            await to_its_end(_given_up(connection))
            if not isinstance(error, errors.Error | OSError):  # A TimeoutError is one.
                raise
            failures.append(_why(connection, server.url, error))
            failures[-1].__cause__ = error
    for failure in failures:
        if len(failures) == 1 or isinstance(failure, ConfigError):
            raise failure
    raise BrokerUnavailable("; ".join(map(str, failures)))


async def _given_up(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            await connection.client.close()


def _why(connection: Connection, url: str, error: Exception) -> SeawayError:
    """What to tell of ``error``, with which ``connection`` could not be opened. No secret in
    ``url``."""
    cause: BaseException = connection.last_error or error
    while cause.__cause__ is not None and isinstance(cause, errors.Error):
        cause = cause.__cause__
    client, words = connection.client, describe(cause)
    step = client.socket.step
    if isinstance(cause, ConfigError):
        return cause
    if _REFUSED.search(words):
        return ConfigError(
            f"{url} refuses these credentials: {words}"
            if client.credentials.known
            else f"{url} wants to know who we are: {words}",
            hint=_LOGIN,
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = _CERTIFICATE_HINTS.get(cause.verify_code, _TRUST)
        return ConfigError(f"{url}: its certificate is not accepted: {words}", hint=hint)
    if (
        client.said.get("tls_verify")
        and not client.credentials.certified
        and step in ("tls", "login")
    ):
        return ConfigError(f"{url} asks for a client's certificate: {words}", hint=_CERTIFY)
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        if "alert" in words:
            return ConfigError(f"{url} does not accept our certificate: {words}", hint=_CERTIFY)
        if connection.settings.tls_first:
            return ConfigError(
                f"{url} does not begin with TLS: {words}", hint="leave out tls_first, --tlsfirst"
            )
        return ConfigError(f"{url}: no TLS with it: {words}")
    if isinstance(cause, NotNats):
        words = f"{words}, and that is not NATS"
    elif step == "greeting" and isinstance(cause, TimeoutError | ConnectionResetError):
        words = (
            "it takes the connection and says nothing (it is no NATS server, or begins with TLS: "
            "tls_first, --tlsfirst)"
        )
    elif step == "tls" and isinstance(cause, TimeoutError):
        words = "no answer in time to the beginning of TLS"
    return BrokerUnavailable(f"no NATS server answers at {url}: {words}")
