"""What happens to a process behind its back: it is stopped for a while, or forked.

Owns: time that also passes while this process, or this machine, is stopped (SIGSTOP, a suspended
laptop, a paused virtual machine): whoever held something before may have lost it to another by
then, and must look before it goes on. And which process opened a thing: what a fork copies of a
connection is still the parent's. Guarantees: nothing is written to a socket that two processes
share, and nobody waits for a thread that a fork did not copy. (What is no connection is simply made
anew in the child: ``events`` does so with its last id.) And whose it is.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from datetime import timedelta

from seaway.errors import ConfigError

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def running_time() -> float:
    """Seconds since some moment in the past; never goes back."""
    return time.clock_gettime(_CLOCK)


def user() -> str:
    """The name of the user that this process is run by."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user without a name.
        return f"uid {os.getuid()}"


def operator() -> str:
    """``USER@HOST``: who is noted to have done something, unless somebody says another name."""
    return f"{user()}@{socket.gethostname()}"


def this_process() -> str:
    """``host:pid``, for people and for the log of what was done."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_ended(process: str) -> bool:
    """Whether a ``this_process`` was on this machine, and is no more."""
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # Another user's.
    return False


class Gap:
    """How long it is since somebody looked last; ``check_and_restart`` is a look."""

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit.total_seconds()
        self._looked = running_time()

    def check_and_restart(self) -> bool:
        """Whether more than the limit has passed since the look before this one."""
        before, self._looked = self._looked, running_time()
        return self._looked - before > self._limit


class Opened:
    """``what`` was opened, by this process."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether that was another process, of which this one is a fork."""
        return os.getpid() != self._pid

    def refuse_in_fork(self) -> None:
        """``ConfigError`` where it was opened elsewhere."""
        if self.elsewhere:
            raise ConfigError(
                f"{self._what} was opened in process {self._pid}, before this process was forked "
                "from it",
                hint="open it in each process, after the fork",
            )
