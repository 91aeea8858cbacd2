"""What mending asks of an application: a ``Seaway``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from seaway.config import Settings
from seaway.consumer import Consumer
from seaway.consumer.trials import Trials
from seaway.contracts import Store


class Application(Protocol):
    """Whose handlers failed. To try them it must be connected."""

    @property
    def settings(self) -> Settings: ...
    @property
    def consumers(self) -> Mapping[str, Consumer]: ...

    def trials(
        self, consumer: str, *, within: timedelta | None = None
    ) -> AbstractAsyncContextManager[Trials]: ...

    async def open_store(self) -> Store: ...
