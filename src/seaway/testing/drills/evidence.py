"""What is left after a drill, and the judgement of it, id by id.

Owns: reading the ledger, the stream, the effects, the letters and the services' notes; and the
figures. ``judge`` is pure. Guarantees: every committed event is looked for where it must be and
where it must not be, and everything found is looked for in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seaway import headers as h
from seaway.contracts import ConsumerInfo
from seaway.dead_letters import DeadLetters
from seaway.testing.drills.service import Kind, Temper
from seaway.testing.drills.stage import STREAM, Stage


@dataclass(frozen=True, slots=True)
class Committed:
    """A row of the ledger."""

    event_id: str
    key: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it. Ledger and effects in the order in which they were committed."""

    ledger: Sequence[Committed]
    streamed: Sequence[str]
    effects: Sequence[str]
    letters: Sequence[tuple[str, str]]
    """Event id and reason."""
    calls: Sequence[str]
    """An event id for each time that a handler was called."""
    server: ConsumerInfo
    """The durable's own counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The figures; all count events but where said otherwise."""

    committed: int
    missing_on_stream: int
    twice_on_stream: int
    took_effect: int
    dead: Mapping[str, int]
    """Letters by reason."""
    lost: int
    """Neither an effect nor a letter."""
    both: int
    """An effect and a letter."""
    effects_twice: int
    letters_twice: int
    invented: int
    """Ids that nobody committed: on the stream, with an effect, or with a letter."""
    misjudged: int
    """Poison with an effect, or a letter that says poison of what is not."""
    calls: int
    """Times that a handler was called."""
    called_again: int
    """Events for which it was called more than once."""
    deliveries: int
    """By the server's counter."""
    redeliveries: int
    """Deliveries beyond the first of each message, by the server's counter."""
    keys: int
    keys_out_of_order: int
    out_of_order: int
    """Effects after one of a later event of their key."""

    @property
    def exact(self) -> bool:
        """Each event took effect once, or is one dead letter; and nothing else is there."""
        return not (
            self.missing_on_stream
            + self.twice_on_stream
            + self.lost
            + self.both
            + self.effects_twice
            + self.letters_twice
            + self.invented
            + self.misjudged
        )

    def passes(self, *, in_order: bool) -> bool:
        """Whether it is exact and, where that was promised, in order by key."""
        return self.exact and not (in_order and self.out_of_order)

    def as_json(self) -> dict[str, Any]:
        """The figures under their names."""
        return asdict(self)


def judge(found: Evidence) -> Findings:
    """Count. Touches nothing."""
    kinds = {one.event_id: one.kind for one in found.ledger}
    committed = set(kinds)
    streamed, effects = Counter(found.streamed), Counter(found.effects)
    letters = Counter(event_id for event_id, _ in found.letters)
    calls = Counter(found.calls)
    poisoned = {event_id for event_id, reason in found.letters if reason == "poison"}
    late, late_keys = _out_of_order(found)
    return Findings(
        committed=len(committed),
        missing_on_stream=len(committed - set(streamed)),
        twice_on_stream=_repeated(streamed),
        took_effect=len(effects),
        dead=dict(Counter(reason for _, reason in found.letters)),
        lost=len(committed - set(effects) - set(letters)),
        both=len(set(effects) & set(letters)),
        effects_twice=_repeated(effects),
        letters_twice=_repeated(letters),
        invented=len((set(streamed) | set(effects) | set(letters)) - committed),
        misjudged=sum(kinds.get(event_id) == "poison" for event_id in effects)
        + sum(kinds.get(event_id) != "poison" for event_id in poisoned),
        calls=calls.total(),
        called_again=_repeated(calls),
        deliveries=found.server.consumer_seq,
        redeliveries=found.server.consumer_seq - found.server.stream_seq,
        keys=len({one.key for one in found.ledger}),
        keys_out_of_order=late_keys,
        out_of_order=late,
    )


def _repeated(counted: Counter[str]) -> int:
    return sum(times > 1 for times in counted.values())


def _out_of_order(found: Evidence) -> tuple[int, int]:
    """How many effects, of how many keys."""
    places = {one.event_id: (one.key, place) for place, one in enumerate(found.ledger)}
    reached: dict[str, int] = {}
    late: Counter[str] = Counter()
    for event_id in found.effects:
        if event_id in places:
            key, place = places[event_id]
            late[key] += place < reached.get(key, -1)
            reached[key] = max(place, reached.get(key, -1))
    return late.total(), sum(times > 0 for times in late.values())


async def gather(stage: Stage, temper: Temper) -> Evidence:
    """Read it, once everything is at rest."""
    ledger = await stage.rows("SELECT event_id, key, number FROM ledger ORDER BY seq")
    effects = await stage.rows("SELECT event_id FROM effects ORDER BY seq")
    streamed = stage.broker.admin.read(STREAM, headers_only=True)
    letters = await DeadLetters(stage.broker).list()
    return Evidence(
        ledger=[Committed(id_, key, temper.kind(number)) for id_, key, number in ledger],
        streamed=[one.message.headers[h.MSG_ID] async for one in streamed],
        effects=[event_id for (event_id,) in effects],
        letters=[(one.event_id, one.reason) for one in letters],
        calls=[
            line for file in sorted(stage.notes.iterdir()) for line in file.read_text().splitlines()
        ],
        server=await stage.durable(),
    )
