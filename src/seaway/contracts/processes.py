"""What the processes at work on a database say of themselves there, for others to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

SILENT = timedelta(seconds=30)
"""A process that has said nothing for so long has gone without a word; it speaks every 10 s."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A part of a process is at work or, where it names ``about``, waits for that.

    ``part``: ``relay``, ``consumer case_mgmt__from_sea``, ``sweeper``. ``about``, ``reason``: as
    in ``telemetry.Wait``. ``lasts``: for how long by now, and ``silent``: how long ago it was said;
    both are spans, since clocks differ.
    """

    part: str
    about: str = ""
    reason: str = ""
    lasts: timedelta = timedelta()
    process: str = ""
    silent: timedelta = timedelta()

    @property
    def live(self) -> bool:
        """Whether its process was heard of lately."""
        return self.silent < SILENT

    @property
    def waits(self) -> bool:
        """Whether it says of a wait."""
        return bool(self.about)


class ProcessStore(Protocol):
    """A short table of who works on this database. Best effort: nothing depends on it."""

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself; empty: it has ended.

        Of each notice ``part``, ``about``, ``reason`` and ``lasts`` are taken, one for each
        ``part`` and ``about``. What others have not renewed for a day is removed.
        """
        ...

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself, also of those that have gone without a word, by
        process and part; ages by the database's clock, never negative."""
        ...
