"""``seaway serve``: the dashboard until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from seaway.cli import log, session
from seaway.cli.session import bounded, run, settings, stop_on_signals
from seaway.errors import ConfigError, MissingExtra
from seaway.waiting import done_before
from seaway.web import ANY_ADDRESS, create_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def serve(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback everybody may look.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8288,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that browsers may reach it by; can be repeated."),
    ] = None,
    log_level: log.Level = None,
    log_format: log.Format = None,
) -> None:
    """Serve the dashboard, /healthz, /readyz and /metrics until Ctrl-C."""
    log.set_up(log_level, log_format)
    run(_serve(ctx, host, port, tuple(allow_host or ())))


async def _serve(ctx: typer.Context, host: str, port: int, names: Sequence[str]) -> None:
    from seaway.web.source import Live

    configured = settings(ctx)
    opened = not is_loopback(host)
    hosts = (
        *LOOPBACK_NAMES,
        host,
        *names,
        *((ANY_ADDRESS, socket.gethostname()) if opened else ()),
    )
    live = Live(configured)
    web = create_app(live, configured.alerts, allowed_hosts=hosts)
    with listening(host, port) as sock:
        address = f"[{host}]" if ":" in host else host
        session.note(f"Dashboard on http://{address}:{sock.getsockname()[1]} (Ctrl-C ends it)")
        if opened:
            known = ", ".join(dict.fromkeys((socket.gethostname(), *names)))
            session.note(
                "Everybody who reaches this address can read it, without a log-in: all figures, "
                "and the payloads of dead letters. Nothing can be changed there."
            )
            session.note(
                f"It answers to this machine's IP addresses, to localhost and to {known}; "
                "to another name with --allow-host."
            )
        session.note(
            f"It watches server {configured.nats.redacted_url}, "
            f"database {configured.redacted_database}"
        )
        async with bounded(*live.stations):
            await _until_stopped(web, sock)
        session.note("The dashboard has stopped")


async def _until_stopped(web: Starlette, sock: socket.socket) -> None:
    try:
        import uvicorn

        from seaway.web.bounded import MOST_AT_ONCE, BoundedProtocol
    except ModuleNotFoundError as error:
        raise MissingExtra("web", "seaway serve") from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # ours are in charge: they end with exit code 0

    server = Server(
        uvicorn.Config(
            web,
            http=BoundedProtocol,
            limit_concurrency=MOST_AT_ONCE,
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    with stop_on_signals(insist=False) as stop:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await done_before(stop, asyncio.wait({serving}))
        server.should_exit = True
        await serving


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; ``ConfigError`` where the port is taken or the address is not ours."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}") from error
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} of {host} is taken", hint="choose another with --port"
                ) from error
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield sock


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
