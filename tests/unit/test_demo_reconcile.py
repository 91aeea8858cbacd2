"""The judgement must see every kind of defect: each test makes one and looks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.demo import writer
from seaway.demo.reconcile import Reconciliation, reconcile
from seaway.demo.services import SERVICES, TABLES, durable
from seaway.proof import reconciliation

EVENTS = [(f"e{number}", f"case-{number % 3}", number // 3 + 1) for number in range(12)]
CASE_MGMT = str(durable("case_mgmt"))
ANALYTICS = str(durable("analytics"))
REDRIVEN = "UPDATE effects SET redriven = 1 WHERE event_id = ? AND consumer = ?"
MOVED = "UPDATE effects SET seq = ? WHERE event_id = ? AND consumer = ?"


class Evidence:
    """A run in which nothing went wrong, to be damaged."""

    def __init__(self) -> None:
        self.evidence = reconciliation.Evidence()
        self.db = self.evidence.database
        for name, tables in (("service", writer.TABLES), *dict.fromkeys(SERVICES, TABLES).items()):
            self.evidence.attach(Path(":memory:"), name)
            self.db.executescript(tables.replace("EXISTS ", f"EXISTS {name}."))
        for place, (event_id, case_id, step) in enumerate(EVENTS, 1):
            subject = f"sea.event.step_{step}.v1"
            self.do("INSERT INTO transactions VALUES (?, 1, ?)", place, 100.0 + place)
            self.do(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)",
                *(place, event_id, case_id, step, subject, place),
            )
            self.do("INSERT INTO streamed VALUES (?, ?, ?)", place, event_id, event_id)
            for name in SERVICES:
                self.take_effect(name, event_id, case_id, subject, 100.5 + place)

    def take_effect(
        self, service: str, event_id: str, case_id: str, subject: str, moment: float
    ) -> None:
        name = case_id if SERVICES[service] == "key" else subject
        (seq,) = self.evidence.one("SELECT count(*) FROM effects")
        self.do(
            "INSERT INTO effects VALUES (?, ?, ?, NULL, 0, ?)",
            *(seq, str(durable(service)), event_id, moment),
        )
        self.do(
            f"INSERT INTO {service}.totals VALUES (?, 1)"  # noqa: S608
            " ON CONFLICT (name) DO UPDATE SET events = events + 1",
            name,
        )

    def do(self, statement: str, *values: object) -> None:
        changed = self.db.execute(statement, values).rowcount
        assert changed != 0, statement

    def judged(self) -> Reconciliation:
        return reconcile(self.evidence, SERVICES)


@pytest.fixture
def evidence() -> Iterator[Evidence]:
    made = Evidence()
    yield made
    made.evidence.close()


def test_a_run_without_defects_is_exact(evidence: Evidence) -> None:
    found = evidence.judged()
    assert found.exact
    assert (found.lost, found.duplicated, found.out_of_order, found.unexpected) == (0, 0, 0, 0)
    assert (found.events, found.cases, found.transactions, found.on_stream) == (12, 3, 12, 12)
    case_mgmt, analytics = found.services
    assert (case_mgmt.durable, case_mgmt.handled, case_mgmt.effects) == (
        "case_mgmt__from_sea",
        12,
        12,
    )
    assert analytics.latency_p50_seconds == pytest.approx(0.5)
    assert found.as_json()["verdict"] == "exact"


def test_an_effect_that_is_not_there_is_lost(evidence: Evidence) -> None:
    evidence.do("DELETE FROM effects WHERE event_id = 'e4' AND consumer = ?", ANALYTICS)
    found = evidence.judged()
    assert (found.lost, found.services[0].lost, found.services[1].lost) == (1, 0, 1)
    assert not found.exact


def test_an_event_that_never_reached_the_stream_is_lost_once(evidence: Evidence) -> None:
    for table in ("streamed", "effects"):
        evidence.do(f"DELETE FROM {table} WHERE event_id = 'e4'")  # noqa: S608
    found = evidence.judged()
    assert (found.lost, found.missing_on_stream) == (1, 1)
    assert not found.exact


def test_an_effect_that_is_there_twice_is_duplicated(evidence: Evidence) -> None:
    evidence.take_effect("case_mgmt", "e11", "case-2", "sea.event.step_4.v1", 200.0)
    found = evidence.judged()
    assert (found.duplicated, found.services[0].duplicated, found.lost) == (1, 1, 0)
    assert found.services[0].projection_off == 1
    assert not found.exact


def test_an_event_stored_twice_under_its_own_id_is_duplicated(evidence: Evidence) -> None:
    evidence.do("INSERT INTO streamed VALUES (99, 'e4', 'e4')")
    found = evidence.judged()
    assert (found.duplicated, found.twice_on_stream, found.on_stream) == (1, 1, 12)
    assert not found.exact


def test_two_effects_of_one_case_the_wrong_way_round_are_out_of_order(evidence: Evidence) -> None:
    evidence.do(MOVED, 99, "e3", CASE_MGMT)
    found = evidence.judged()
    assert (found.out_of_order, found.services[0].out_of_order) == (1, 1)
    assert found.services[1].out_of_order == 0
    assert not found.exact


def test_two_events_of_one_case_the_wrong_way_round_on_the_stream(evidence: Evidence) -> None:
    evidence.do("UPDATE streamed SET seq = 99 WHERE event_id = 'e3'")
    found = evidence.judged()
    assert (found.out_of_order, found.out_of_order_on_stream) == (1, 1)


def test_events_of_different_cases_have_no_order(evidence: Evidence) -> None:
    evidence.do(MOVED, 99, "e11", CASE_MGMT)
    evidence.do(MOVED, 98, "e10", CASE_MGMT)
    assert evidence.judged().exact


def test_an_event_that_was_redriven_is_late_and_not_out_of_order(evidence: Evidence) -> None:
    evidence.do(MOVED, 99, "e3", CASE_MGMT)
    evidence.do(REDRIVEN, "e3", CASE_MGMT)
    found = evidence.judged()
    assert found.exact
    assert (found.services[0].late_by_redrive, found.services[0].out_of_order) == (1, 0)
    assert (found.services[0].dead_lettered, found.services[0].redriven) == (1, 1)
    assert found.services[1].dead_lettered == 0


def test_another_services_redrive_excuses_nothing(evidence: Evidence) -> None:
    evidence.do(MOVED, 99, "e3", CASE_MGMT)
    evidence.do(REDRIVEN, "e3", ANALYTICS)
    assert evidence.judged().out_of_order == 1


def test_a_letter_that_was_not_redriven_is_not_exact(evidence: Evidence) -> None:
    evidence.do("INSERT INTO letters VALUES (?, 'e3', 'poison')", CASE_MGMT)
    found = evidence.judged()
    assert found.services[0].left_dead == 1
    assert not found.exact


def test_what_was_rolled_back_must_be_nowhere(evidence: Evidence) -> None:
    evidence.do("INSERT INTO rolled_back VALUES ('ghost')")
    assert evidence.judged().exact
    assert evidence.judged().written == 13
    evidence.do("INSERT INTO streamed VALUES (99, 'ghost', 'ghost')")
    found = evidence.judged()
    assert (found.unexpected, found.exact) == (1, False)


def test_a_copy_under_another_message_id_is_a_suppressed_duplicate(evidence: Evidence) -> None:
    evidence.do("INSERT INTO streamed VALUES (99, 'again:e3', 'e3')")
    evidence.do("INSERT INTO doubles VALUES ('e3', 0)")
    evidence.do("INSERT INTO doubles VALUES ('e4', 1)")
    found = evidence.judged()
    assert found.exact
    assert (found.sent_again, found.copies_on_stream) == (2, 1)
    assert found.duplicates_suppressed_by_stream == 1
    assert [service.duplicates_suppressed for service in found.services] == [1, 1]


def test_a_projection_that_counts_wrongly_is_not_exact(evidence: Evidence) -> None:
    evidence.do("UPDATE analytics.totals SET events = events + 2 WHERE name LIKE '%step_1%'")
    found = evidence.judged()
    assert (found.services[1].projection_off, found.exact) == (2, False)


def test_an_empty_run_has_no_latency(evidence: Evidence) -> None:
    for table in ("ledger", "streamed", "transactions", "effects"):
        evidence.do(f"DELETE FROM {table}")  # noqa: S608
    for name in SERVICES:
        evidence.do(f"DELETE FROM {name}.totals")  # noqa: S608
    found = evidence.judged()
    assert found.exact
    assert found.services[0].latency_p99_seconds is None


@given(st.permutations(range(len(EVENTS))))
def test_any_order_of_effects_is_judged_by_each_case_alone(order: list[int]) -> None:
    evidence = Evidence()
    try:
        for place, number in enumerate(order):
            evidence.do(MOVED, 100 + place, EVENTS[number][0], ANALYTICS)
        expected = 0
        reached: dict[str, int] = {}
        for number in order:
            _, case_id, step = EVENTS[number]
            expected += step < reached.get(case_id, 0)
            reached[case_id] = max(step, reached.get(case_id, 0))
        found = evidence.judged()
        assert found.out_of_order == expected
        assert (found.lost, found.duplicated) == (0, 0)
    finally:
        evidence.evidence.close()
