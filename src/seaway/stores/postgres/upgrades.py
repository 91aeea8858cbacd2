"""A defect of the driver: connecting, given up in one turn of the event loop, is complained about.

asyncpg (0.32) asks a server for TLS through a protocol of its own, which keeps a future for the
answer. Cancelled between the socket's connection and the wait for that future, it fails the future,
and asyncio reports "Future exception was never retrieved ... unexpected connection_lost()". A stop
cancels what connects just then; so may the driver itself, which connects to cancel a statement.
Nothing was lost: whoever waits for the future is still told, and nobody does here.
"""

from __future__ import annotations

from typing import Any

from asyncpg import connect_utils

_Driver: Any = connect_utils.TLSUpgradeProto


class _Upgrade(_Driver):  # type: ignore[misc]
    """The driver's, whose failure counts as seen."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_data.done() and not self.on_data.cancelled():
            self.on_data.exception()


def mend() -> None:
    """Have the driver use it. Idempotent."""
    vars(connect_utils)["TLSUpgradeProto"] = _Upgrade
