"""The judgement of a drill: each way to be wrong is found, and only that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest

from seaway.proof.reconciliation import Evidence
from seaway.testing.drills.evidence import Findings, Report, judge
from seaway.testing.drills.service import DURABLE, Temper

LEDGER = [("a1", "a", 1), ("a2", "a", 2), ("b1", "b", 3), ("b2", "b", 4)]
STREAMED = ["a1", "b1", "a2", "b2"]
EFFECTS = ["a1", "b2", "a2"]
LETTERS = [("b1", "poison")]
POISON = 3


class ThirdIsPoison(Temper):
    """As its name says."""

    def kind(self, number: int) -> Any:
        return "poison" if number == POISON else "plain"


def judged(
    *,
    streamed: Sequence[str] = STREAMED,
    effects: Sequence[str] = EFFECTS,
    letters: Sequence[tuple[str, str]] = LETTERS,
) -> Findings:
    """A drill that was passed, but for what is given."""
    with closing(Evidence()) as evidence:
        evidence.add(
            "ledger",
            [(seq, *row, "drill.event.x.v1", seq) for seq, row in enumerate(LEDGER)],
        )
        evidence.add("streamed", [(seq, id_, id_) for seq, id_ in enumerate(streamed)])
        rows = [(seq, str(DURABLE), id_, None, 0, 0.0) for seq, id_ in enumerate(effects)]
        evidence.add("effects", rows)
        evidence.add("letters", [(str(DURABLE), *letter) for letter in letters])
        calls = ["a1", "b1", "a2", "a2", "b2"]
        return judge(evidence, ThirdIsPoison(), calls)


def passed(findings: Findings, *, in_order: bool) -> bool:
    return Report(findings=findings, in_order=in_order, seconds=1.0).passed


def test_a_drill_that_was_passed() -> None:
    found = judged()
    assert found.exact
    assert (found.committed, found.took_effect, found.dead) == (4, 3, {"poison": 1})
    assert (found.calls, found.called_again) == (5, 1)
    assert (found.keys, found.out_of_order) == (2, 0)


@pytest.mark.parametrize(
    ("figure", "broken"),
    [
        ("missing_on_stream", lambda: judged(streamed=["a1", "b1", "a2"])),
        ("twice_on_stream", lambda: judged(streamed=[*STREAMED, "a1"])),
        ("lost", lambda: judged(effects=["a1", "b2"])),
        ("both", lambda: judged(letters=[*LETTERS, ("a2", "exhausted")])),
        ("effects_twice", lambda: judged(effects=[*EFFECTS, "b2"])),
        ("letters_twice", lambda: judged(letters=[*LETTERS] * 2)),
        ("invented", lambda: judged(effects=[*EFFECTS, "c1"])),
        ("invented", lambda: judged(streamed=[*STREAMED, "c1"])),
        ("invented", lambda: judged(letters=[*LETTERS, ("c1", "exhausted")])),
        ("misjudged", lambda: judged(effects=[*EFFECTS, "b1"], letters=[])),
        ("misjudged", lambda: judged(effects=["a1", "a2"], letters=[("b2", "poison")])),
    ],
)
def test_each_way_to_be_wrong_is_found(figure: str, broken: Callable[[], Findings]) -> None:
    found = broken()
    assert not found.exact
    assert getattr(found, figure) == 1


def test_order_is_reported_and_judged_where_it_was_promised() -> None:
    found = judged(effects=["a2", "a1", "b2"])
    assert found.exact
    assert passed(found, in_order=False)
    assert not passed(found, in_order=True)
    assert passed(judged(), in_order=True)
    assert (found.out_of_order, found.keys_out_of_order) == (1, 1)


def test_an_event_keeps_its_kind_and_the_shares_are_kept() -> None:
    temper = Temper(seed=3, poison=0.01, transient=0.05, slow=0.02, deadly=(7,))
    kinds = [temper.kind(number) for number in range(20_000)]
    assert kinds == [temper.kind(number) for number in range(20_000)]
    assert kinds[7] == "deadly"
    for kind, share in (("poison", 0.01), ("transient", 0.05), ("slow", 0.02)):
        assert 0.8 * share < kinds.count(kind) / len(kinds) < 1.2 * share  # type: ignore[arg-type]
