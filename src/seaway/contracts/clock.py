"""Where time comes from."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests bring their own."""

    def now(self) -> datetime:
        """The current time, aware, UTC."""
        ...

    async def sleep(self, delay: timedelta) -> None:
        """Wait ``delay``; negative waits nothing."""
        ...
