"""The dashboard: a page, health endpoints and metrics, read only.

Owns: what a browser and a prober see. Must not know: how figures are gathered, or brokers and
databases beyond its ``Source``. Guarantees: no request changes anything; what others wrote (names,
payloads, errors) is text, never markup; a server that is away is a page, not a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seaway.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette

    from seaway.config import AlertSettings
    from seaway.web.source import Source

__all__ = ["ANY_ADDRESS", "create_app"]

ANY_ADDRESS = "[*]"
"""In a list of hosts: any IP address. No site can have one for its name."""


def create_app(
    source: Source, alerts: AlertSettings, *, allowed_hosts: Sequence[str] = ("*",)
) -> Starlette:
    """The ASGI application; ``MissingExtra`` where the extra ``web`` is not installed.

    Entering its lifespan enters ``source``. ``allowed_hosts``: hosts that are answered, among them
    ``ANY_ADDRESS``, or ``*`` for all; name them, so that no other site's name can reach it.
    """
    try:
        from seaway.web.application import build
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "jinja2", "markupsafe"):
            raise
        raise MissingExtra("web", "the dashboard") from error
    return build(source, alerts, allowed_hosts)
