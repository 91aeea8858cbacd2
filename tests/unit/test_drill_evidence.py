"""The judgement of a drill: each way to be wrong is found, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from described import a_consumer
from seaway.testing.drills.evidence import Committed, Evidence, judge
from seaway.testing.drills.service import Temper

LEDGER = [
    Committed("a1", "a", "plain"),
    Committed("a2", "a", "transient"),
    Committed("b1", "b", "poison"),
    Committed("b2", "b", "plain"),
]
PASSED = Evidence(
    ledger=LEDGER,
    streamed=["a1", "b1", "a2", "b2"],
    effects=["a1", "b2", "a2"],
    letters=[("b1", "poison")],
    calls=["a1", "b1", "a2", "a2", "b2"],
    server=a_consumer(
        "SEA_EVENTS", "case_mgmt__from_sea", {}, delivered={"consumer_seq": 6, "stream_seq": 4}
    ),
)


def test_a_drill_that_was_passed() -> None:
    found = judge(PASSED)
    assert found.exact
    assert (found.committed, found.took_effect, found.dead) == (4, 3, {"poison": 1})
    assert (found.calls, found.called_again) == (5, 1)
    assert (found.deliveries, found.redeliveries) == (6, 2)
    assert (found.keys, found.out_of_order) == (2, 0)


@pytest.mark.parametrize(
    ("figure", "broken"),
    [
        ("missing_on_stream", replace(PASSED, streamed=["a1", "b1", "a2"])),
        ("twice_on_stream", replace(PASSED, streamed=[*PASSED.streamed, "a1"])),
        ("lost", replace(PASSED, effects=["a1", "b2"])),
        ("both", replace(PASSED, letters=[*PASSED.letters, ("a2", "exhausted")])),
        ("effects_twice", replace(PASSED, effects=[*PASSED.effects, "b2"])),
        ("letters_twice", replace(PASSED, letters=[*PASSED.letters] * 2)),
        ("invented", replace(PASSED, effects=[*PASSED.effects, "c1"])),
        ("invented", replace(PASSED, streamed=[*PASSED.streamed, "c1"])),
        ("invented", replace(PASSED, letters=[*PASSED.letters, ("c1", "exhausted")])),
        ("misjudged", replace(PASSED, effects=[*PASSED.effects, "b1"], letters=[])),
        ("misjudged", replace(PASSED, effects=["a1", "a2"], letters=[("b2", "poison")])),
    ],
)
def test_each_way_to_be_wrong_is_found(figure: str, broken: Evidence) -> None:
    found = judge(broken)
    assert not found.exact
    assert getattr(found, figure) == 1


def test_order_is_reported_and_judged_where_it_was_promised() -> None:
    found = judge(replace(PASSED, effects=["a2", "a1", "b2"]))
    assert found.exact
    assert found.passes(in_order=False)
    assert not found.passes(in_order=True)
    assert judge(PASSED).passes(in_order=True)
    assert (found.out_of_order, found.keys_out_of_order) == (1, 1)


def test_an_event_keeps_its_kind_and_the_shares_are_kept() -> None:
    temper = Temper(seed=3, poison=0.01, transient=0.05, slow=0.02, deadly=(7,))
    kinds = [temper.kind(number) for number in range(20_000)]
    assert kinds == [temper.kind(number) for number in range(20_000)]
    assert kinds[7] == "deadly"
    for kind, share in (("poison", 0.01), ("transient", 0.05), ("slow", 0.02)):
        assert 0.8 * share < kinds.count(kind) / len(kinds) < 1.2 * share  # type: ignore[arg-type]
