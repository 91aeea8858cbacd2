"""What a relay says of a stream's losses: in ``seaway_log`` and by telemetry.

Guarantees: each loss that cannot be healed is said once, whatever looks again; a log that cannot be
written holds up nothing but for an outage of its database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seaway import logs
from seaway.contracts import LogStore, Loss
from seaway.errors import SeawayError, TransientError
from seaway.inbox.places import entry
from seaway.telemetry import Healed, NotHealed, Telemetry

logger = logs.logger("seaway.relay")


@dataclass(slots=True)
class Telling:
    """For one relay."""

    log: LogStore
    telemetry: Telemetry
    _said: set[str] = field(default_factory=set)

    def emit(self, signal: Healed | NotHealed) -> None:
        """To whoever listens."""
        self.telemetry.emit(signal)

    async def note_healed(
        self, stream: str, moved: Sequence[Sequence[Any]], *, made_anew: bool
    ) -> Healed:
        """Note it, before it counts as healed. ``moved``: of each event its id, the place where it
        was and the one where it is. What to ``emit`` once it does."""
        places = [was for _, was, _ in moved]
        loss = Loss(len(moved), min(places), max(places))
        detail: dict[str, Any] = {
            "events": loss.events,
            "first": loss.first,
            "last": loss.last,
            "made_anew": made_anew,
            "moved": moved,
        }
        await self._note("healed", stream, detail)
        return Healed(stream, *loss, made_anew)

    async def not_healed(self, stream: str, reason: str, *, events: int = 0) -> None:
        """Say why, once for each reason; ``events``: of so many, which are told each."""
        told = f"{stream} {reason}"
        if not events and told in self._said:
            return
        self._said.add(told)
        await self._note("not healed", stream, {"events": events, "reason": reason})
        self.emit(NotHealed(stream, reason, events))

    async def _note(self, action: str, stream: str, detail: dict[str, Any]) -> None:
        try:
            await self.log.note(entry(action, stream, detail))
        except TransientError:
            raise
        except SeawayError as error:
            logger.warning(
                "seaway_log has no entry of what was %s on %s: %s", action, stream, error
            )
