"""The judgement of a drill of one durable, id by id.

Owns: the figures, and what is made of poison. The comparison is ``seaway.proof``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from seaway.proof.reconciliation import EFFECTS, LETTERS, STREAM, Evidence, gather
from seaway.proof.stage import Stage
from seaway.testing.drills.service import DURABLE, Temper, calls

_WITHOUT_EFFECT = """
SELECT event_id FROM ledger
WHERE NOT EXISTS (SELECT 1 FROM effects WHERE effects.event_id = ledger.event_id)
"""


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


@dataclass(kw_only=True)
class Report:
    """What a drill of one durable tells; each adds its own figures."""

    verdict: ClassVar[str] = "exact"
    findings: Findings
    in_order: bool
    """Whether order by key over all processes was promised."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it is exact and, where that was promised, in order by key."""
        return self.findings.exact and not (self.in_order and self.findings.out_of_order)

    def as_json(self) -> dict[str, Any]:
        """The verdict first."""
        told = asdict(self)
        findings: dict[str, Any] = told.pop("findings")
        del told["in_order"]
        return {self.verdict: self.passed} | findings | told


def judge(evidence: Evidence, temper: Temper, called: Sequence[str]) -> Findings:
    """Count. ``called``: an event id for each call of a handler."""
    stream, letters = evidence.compare(STREAM), evidence.compare(LETTERS)
    effects = evidence.compare(EFFECTS, str(DURABLE))
    ledger = evidence.database.execute("SELECT event_id, number FROM ledger").fetchall()
    poison = {event_id for event_id, number in ledger if temper.kind(number) == "poison"}
    called_poison = evidence.ids("SELECT event_id FROM letters WHERE reason = 'poison'")
    times = Counter(called)
    dead = evidence.database.execute("SELECT reason, count(*) FROM letters GROUP BY reason")
    return Findings(
        committed=len(ledger),
        missing_on_stream=len(stream.missing),
        twice_on_stream=len(stream.twice),
        took_effect=effects.events,
        dead=dict(dead.fetchall()),
        lost=len(effects.missing & letters.missing),
        both=len(ledger) - len(effects.missing | letters.missing),
        effects_twice=len(effects.twice),
        letters_twice=len(letters.twice),
        invented=len(stream.unknown | effects.unknown | letters.unknown),
        misjudged=len(poison - effects.missing) + len(called_poison - poison),
        calls=times.total(),
        called_again=sum(count > 1 for count in times.values()),
        keys=evidence.one("SELECT count(DISTINCT key) FROM ledger")[0],
        keys_out_of_order=effects.keys_out_of_order,
        out_of_order=effects.out_of_order,
    )


async def examine(stage: Stage, temper: Temper) -> Findings:
    """Gather and judge, once everything is at rest."""
    with closing(await gather(stage)) as evidence:
        return judge(evidence, temper, calls(stage))


async def without_an_end(stage: Stage) -> Mapping[str, int]:
    """What is still to come when all else is at rest: the letter of a message whose last delivery
    died, and what a server lost, or has twice, and nobody has looked for yet."""
    without = {str(event_id) for (event_id,) in await stage.rows(_WITHOUT_EFFECT)}
    async with aclosing(stage.app.dead_letters.letters(payloads=False)) as found:
        letters = Counter([letter.event_id async for letter in found])
    return {
        "events without an end": len(without - letters.keys()),
        "letters too many": letters.total() - len(letters.keys() & without),
    }
