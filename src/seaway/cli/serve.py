"""``seaway serve``: the dashboard until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

import typer

from seaway.cli import log, printing, session
from seaway.errors import MissingExtra
from seaway.parts import stop_on_signals
from seaway.web import ANY_ADDRESS, create_app
from seaway.web.source import Live

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@session.runs
async def serve(
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
    audit: Annotated[
        bool,
        typer.Option(
            "--audit", help="Keep comparing outbox, streams, inbox and letters, for /metrics."
        ),
    ] = False,
    log_level: log.Level = None,
    log_format: log.Format = None,
) -> None:
    """Serve the dashboard, /healthz, /readyz and /metrics until Ctrl-C."""
    log.set_up(log_level, log_format)
    configured = session.settings(ctx)
    names, opened = tuple(allow_host or ()), not is_loopback(host)
    hosts = (*LOOPBACK_NAMES, host, *names)
    hosts += (ANY_ADDRESS, socket.gethostname()) if opened else ()
    live = Live(configured, audit=audit)
    web = create_app(live, configured.alerts, allowed_hosts=hosts)
    try:
        from seaway.web.serving import listening, serve_until
    except ModuleNotFoundError as error:
        raise MissingExtra("web", "seaway serve") from error
    with listening(host, port) as sock:
        address = f"[{host}]" if ":" in host else host
        printing.note(f"Dashboard on http://{address}:{sock.getsockname()[1]} (Ctrl-C ends it)")
        if opened:
            known = ", ".join(dict.fromkeys((socket.gethostname(), *names)))
            printing.note(
                "Everybody who reaches this address can read it, without a log-in: all figures, "
                "and the payloads of dead letters. Nothing can be changed there."
            )
            printing.note(
                f"It answers to this machine's IP addresses, to localhost and to {known}; "
                "to another name with --allow-host."
            )
        printing.note(
            f"It watches server {configured.nats.redacted_url}, "
            f"database {configured.redacted_database}"
        )
        async with session.bounded(*live.stations):
            with stop_on_signals(insist=False) as stop:
                await serve_until(stop, web, sock)
        printing.note("The dashboard has stopped")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
