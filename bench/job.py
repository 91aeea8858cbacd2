"""What a contender gets and gives. Plain data, read by both virtual environments."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

Figures: TypeAlias = dict[str, float]
"""What a run measured, by name: ``events_per_second``, ``stored_p50_ms``, ..."""
Run: TypeAlias = Callable[[], Awaitable[Figures]]
"""Does the work once and tells its figures; only this is measured."""


@dataclass(frozen=True, slots=True)
class Job:
    """One round of one contender. Both servers are its own, fresh, and on loopback."""

    events: int
    folder: str
    """An empty folder, removed afterwards."""
    nats_url: str
    postgres_url: str
    """Empty for a contender that did not ask for a database server."""

    def path(self, name: str) -> Path:
        """A file in the folder."""
        return Path(self.folder) / name

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Job:
        return cls(**json.loads(text))


Prepare: TypeAlias = Callable[[Job], AbstractAsyncContextManager[Run]]
"""A contender: sets up, yields what is measured, tears down."""
Prepared: TypeAlias = AsyncIterator[Run]
"""What a contender's generator function returns."""
