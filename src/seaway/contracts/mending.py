"""What mending dead letters leaves in the database: runs, and letters that can be brought back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from seaway.contracts.messages import StoredMessage

RunState: TypeAlias = Literal["running", "stopped", "failed", "done"]
"""``running`` also of one whose process has died: see ``changed_at``."""


@dataclass(frozen=True, slots=True)
class Run:
    """Work on many letters that can be stopped and gone on with.

    ``kind``: ``redrive``, a word by which runs are found. ``about``: a queue, a stream. ``plan``:
    what was asked for, and ``progress``, how far it is, are JSON objects. The times are filled in
    by the store, by its clock; ``ended_at`` is ``None`` while it runs.
    """

    run: str
    kind: str
    about: str = ""
    by: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    state: RunState = "running"
    progress: Mapping[str, Any] = field(default_factory=dict)
    begun_at: datetime | None = None
    changed_at: datetime | None = None
    ended_at: datetime | None = None


class RunItem(NamedTuple):
    """What became of one of a run's items: of a letter by its id. ``state`` is the run's own word,
    ``detail`` why. ``changed_at`` is filled in by the store."""

    item: str
    state: str
    event_id: str = ""
    consumer: str = ""
    detail: str = ""
    changed_at: datetime | None = None


class RunStore(Protocol):
    """A short table of runs and a longer one of their items, kept for 400 days after the last
    change."""

    async def begin_run(self, run: Run) -> bool:
        """Write it; false, and nothing is changed, where there is one of that id. Of ``run`` all
        but the times is taken."""
        ...

    async def change_run(
        self,
        run: str,
        *,
        state: RunState | None = None,
        progress: Mapping[str, Any] | None = None,
        unless_changed_since: datetime | None = None,
    ) -> bool:
        """Set what is given, and that it was changed now; whether that was done.

        ``unless_changed_since``: the ``changed_at`` of who has looked at it. Of several that take a
        run over, whose process has died, one is answered with true.
        """
        ...

    async def runs(self, kind: str | None = None, *, limit: int = 100) -> Sequence[Run]:
        """The newest first."""
        ...

    async def run(self, run: str) -> Run | None: ...

    async def note_items(self, run: str, items: Sequence[RunItem]) -> None:
        """Write these items, or replace what was noted of them. Idempotent."""
        ...

    async def run_items(
        self, run: str, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[RunItem]:
        """Its items behind ``after``, in order of the bytes of their names."""
        ...

    async def count_items(self, run: str) -> Mapping[str, int]:
        """How many items it has, by state."""
        ...


@dataclass(frozen=True, slots=True)
class DiscardedLetter:
    """A letter that somebody discarded, as it lay in its queue.

    ``holds``: later events of its key waited for it (``on_failure="park"``), and ``behind``, how
    many letters did. The store fills in when it was discarded, until when it is kept, and that it
    is ``bare``: read without its payload.
    """

    stored: StoredMessage
    event_id: str
    consumer: str
    holds: bool = False
    behind: int = 0
    by: str = ""
    why: str = ""
    discarded_at: datetime | None = None
    until: datetime | None = None
    bare: bool = False

    @property
    def id(self) -> str:
        """What people call it: ``SEA_DLQ:17``. A queue that was made anew may have several."""
        return f"{self.stored.stream}:{self.stored.stream_seq}"


class DiscardStore(Protocol):
    """A table of discarded letters, each kept until its time has passed."""

    async def keep_discarded(
        self, letters: Sequence[DiscardedLetter], restore_for: timedelta
    ) -> None:
        """Keep them so long from now on, all or none. One that is there already is kept under its
        newest reason. Idempotent. NUL and what is no character becomes U+FFFD in their texts but
        the headers."""
        ...

    async def discarded_letters(
        self,
        names: Collection[str] | None = None,
        *,
        consumer: str | None = None,
        payloads: bool = False,
        limit: int = 100,
    ) -> Sequence[DiscardedLetter]:
        """Those whose time has not passed, the newest first; ``bare`` but with ``payloads``.

        ``names``: ids of letters or of events.
        """
        ...

    async def take_discarded(self, letters: Sequence[DiscardedLetter]) -> int:
        """Keep them no more, all or none; how many there were."""
        ...

    async def forget_discarded(self) -> int:
        """Drop those whose time has passed; how many."""
        ...

    async def unclaim(self, consumer: str, event_ids: Collection[str]) -> int:
        """Remove these rows of the consumer's inbox; how many there were."""
        ...


class MendingStore(RunStore, DiscardStore, Protocol):
    """Both."""
