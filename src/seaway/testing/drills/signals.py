"""Signals to other people's processes, which may be gone already. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
import os
import signal


def send(pid: int | None, number: signal.Signals) -> None:
    """Send it; nothing where the process is dead, or about to be started again (``None``)."""
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


async def hold(pid: int | None, seconds: float) -> None:
    """SIGSTOP now, SIGCONT after ``seconds``, also where this is cancelled."""
    send(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        send(pid, signal.SIGCONT)
