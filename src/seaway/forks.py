"""Which process opened a thing: what a fork copies of a connection is still the parent's.

Owns: telling so. Guarantees: nothing is written to a socket that two processes share, and nobody
waits for a thread that a fork did not copy. (What is no connection is simply made anew in the
child: ``events`` does so with its last id.)
"""

from __future__ import annotations

import os

from seaway.errors import ConfigError


class Opened:
    """``what`` was opened, by this process."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether that was another process, of which this one is a fork."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """``ConfigError`` where it was opened elsewhere."""
        if self.elsewhere:
            raise ConfigError(
                f"{self._what} was opened in process {self._pid}, before this process was forked "
                "from it",
                hint="open it in each process, after the fork",
            )
