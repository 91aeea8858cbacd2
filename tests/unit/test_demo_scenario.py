"""The plan of a run: the same for the same seed, and with every kind of trouble in it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.demo.folder import Folder
from seaway.demo.plan import Options, Plan, decide_plan, planned
from seaway.demo.scenario import (
    CaseClosed,
    CaseCreated,
    TaskCompleted,
    case_changes,
    repaired,
    transactions,
)
from seaway.errors import ConfigError, DecodeError
from seaway.events import RawEvent, event_type_of
from seaway.proof.faults import draw


@given(st.integers(1, 60), st.integers())
@settings(max_examples=30, deadline=None)
def test_the_same_seed_gives_the_same_changes_and_every_case_begins_and_ends(
    cases: int, seed: int
) -> None:
    changes = list(case_changes(cases, seed))
    assert changes == list(case_changes(cases, seed))
    events: defaultdict[str, list[object]] = defaultdict(list)
    for change in changes:
        events[change.case_id] += change.events
    assert len(events) == cases
    for own in events.values():
        assert isinstance(own[0], CaseCreated)
        assert isinstance(own[-1], CaseClosed)
        assert sum(isinstance(one, CaseCreated | CaseClosed) for one in own) == 2


def test_a_thousand_cases_hold_every_kind_of_trouble() -> None:
    changes = list(case_changes(1000, 1))
    events = [one for change in changes for one in change.events]
    assert {change.attempt for change in changes} == {"once", "rolled_back", "savepoint"}
    assert any(isinstance(one, CaseCreated) and not one.postcode.isdigit() for one in events)
    interleaved = [change.case_id for change in changes[:20]]
    assert len(set(interleaved)) > 5
    spelled_out = [one for one in events if isinstance(one, RawEvent)]
    assert spelled_out
    for raw in spelled_out:
        with pytest.raises(DecodeError, match="minutes"):
            event_type_of(TaskCompleted).decode(raw.payload)
        mended = repaired(raw.payload)
        assert mended is not None
        assert event_type_of(TaskCompleted).decode(mended).minutes > 0


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"minutes": 3}', b'{"minutes": "soon"}', b"{}"])
def test_what_is_not_known_to_be_broken_is_not_repaired(payload: bytes) -> None:
    assert repaired(payload) is None


@given(st.integers(), st.text(), st.integers(0, 9))
def test_a_draw_depends_on_its_arguments_alone(seed: int, name: str, number: int) -> None:
    first = draw(seed, name, number)
    assert 0 <= first < 1
    assert first == draw(seed, name, number)


def test_draws_differ_by_every_argument() -> None:
    assert len({draw(1, "a", 1), draw(2, "a", 1), draw(1, "b", 1), draw(1, "a", 2)}) == 4


@given(st.integers(1, 30), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_transactions_hold_every_change_once_and_in_order(cases: int, size: int) -> None:
    changes = list(case_changes(cases, 1))
    groups = list(transactions(changes, size))
    assert [change for group in groups for change in group] == changes
    assert all(len(group) == size for group in groups[:-1])


def log_file(folder: Path, rows: int) -> Path:
    path = folder / "log.csv"
    lines = [f"c{row % 7},Step {row % 3},2024-01-01T00:00:{row % 60:02d}Z\n" for row in range(rows)]
    path.write_text("case:concept:name,concept:name,time:timestamp\n" + "".join(lines))
    return path


def test_a_log_gives_its_rows_as_events_and_a_folder_remembers_the_plan(tmp_path: Path) -> None:
    log = log_file(tmp_path, 100)
    plan = decide_plan(Options(log=log, seed=4), None)
    assert (plan.log, plan.cases, plan.events, plan.seed) == (str(log), 7, 100, 4)
    rows = [change for group in planned(plan) for change in group]
    assert [change.case_id for change in rows[:8]] == [*(f"c{n}" for n in range(7)), "c0"]
    (first,) = rows[0].events
    assert isinstance(first, RawEvent)
    assert first.subject == "sea.event.step_0.v1"
    assert decide_plan(Options(), plan) == plan


def test_options_that_do_not_go_together_and_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either --log or --cases"):
        decide_plan(Options(log=tmp_path / "x.csv", cases=3), None)
    with pytest.raises(ConfigError, match="No such file"):
        decide_plan(Options(log=tmp_path / "x.csv"), None)


def test_a_folder_is_held_by_one_demo_and_keeps_one_plan(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    plan = Plan(None, 40, 264, 1, 1)
    with folder.claim():
        folder.keep(plan)
        folder.keep(plan)
        assert folder.saved_plan() == plan
        with pytest.raises(ConfigError, match="cases 40, not 41"):
            folder.keep(Plan(None, 41, 264, 1, 1))
        with pytest.raises(ConfigError, match="another demo is running"), folder.claim():
            pass
    with folder.claim():
        assert folder.saved_plan() == plan


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not a demo's folder"), Folder(tmp_path).claim():
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(ConfigError, match="is not a folder"),
        Folder(tmp_path / "thesis.txt").claim(),
    ):
        pass


def test_a_folder_of_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    before = {"log": None, "cases": 40, "events": 264, "seed": 1, "group": 1}
    (tmp_path / "demo.json").write_text(json.dumps(before))
    with pytest.raises(ConfigError, match="layout 1, not 2"):
        Folder(tmp_path).keep(Plan(None, 40, 264, 1, 1))


def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(ConfigError, match=r"demo\.json cannot be read"):
        Folder(tmp_path).saved_plan()
