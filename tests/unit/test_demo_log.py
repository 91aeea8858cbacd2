"""Event logs: what is read, what is refused by which line, and what activities are called."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.demo.log import Columns, event_names, read_log, slug, survey
from seaway.errors import ConfigError
from seaway.naming import EventSubject

HEADER = "case:concept:name,concept:name,time:timestamp,org:resource\n"
ROW = "case-1,A_SUBMITTED,2011-10-01 00:38:44.546000+02:00,Resource 1\n"


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "log.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        survey(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("activity", "name"),
    [
        ("T02 Check confirmation of receipt", "t02_check_confirmation_of_receipt"),
        ("T07-1 Draft intern advice aspect 1", "t07_1_draft_intern_advice_aspect_1"),
        ("W_Completeren aanvraag", "w_completeren_aanvraag"),
        ("A_SUBMITTED", "a_submitted"),
        ("O_SENT_BACK", "o_sent_back"),
        ("Überprüfung (2.)", "uberprufung_2"),
        ("1st check", "activity_1st_check"),
        ("  __Late__  ", "late"),
    ],
)
def test_an_activity_gives_a_readable_event_name(activity: str, name: str) -> None:
    assert slug(activity) == name
    assert event_names([activity]) == {activity: name}


def test_activities_that_look_alike_keep_their_own_names() -> None:
    names = event_names(["A_SUBMITTED", "A submitted", "a-submitted", "办理", "审核"])
    assert len(set(names.values())) == 5
    assert names == event_names(["审核", "a-submitted", "办理", "A submitted", "A_SUBMITTED"])


@given(st.sets(st.text(min_size=1, max_size=120), max_size=20))
def test_every_activity_has_one_valid_name_of_its_own(activities: set[str]) -> None:
    activities = {text for text in activities if text.isprintable()}
    names = event_names(activities)
    assert set(names) == activities
    assert len(set(names.values())) == len(activities)
    for name in names.values():
        EventSubject("sea", name, 1)


def test_rows_come_whole_and_in_file_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER + ROW + '"case 2","B ""quoted"", with\ncomma",2011-10-02T01:00:00Z,Zoë\n\n' + ROW,
    )
    first, second, third = read_log(path)
    assert (first.line, first.case_id, first.activity) == (2, "case-1", "A_SUBMITTED")
    assert first.occurred_at.utcoffset() == timedelta(hours=2)
    assert json.loads(first.payload) == {
        "case:concept:name": "case-1",
        "concept:name": "A_SUBMITTED",
        "time:timestamp": "2011-10-01 00:38:44.546000+02:00",
        "org:resource": "Resource 1",
    }
    assert (second.line, second.activity) == (3, 'B "quoted", with\ncomma')
    assert json.loads(second.payload)["org:resource"] == "Zoë"
    assert third.line == 6


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path, "order,what,when,note\no-1,paid,2011-10-01 00:38:44,x\n")
    columns = Columns("order", "what", "when")
    (row,) = read_log(path, columns)
    assert (row.case_id, row.activity) == ("o-1", "paid")
    assert survey(path, columns).event_names == {"paid": "paid"}
    with pytest.raises(ConfigError, match=r"'case:concept:name'.*--case, --activity and --time"):
        survey(path)


def test_a_survey_counts_rows_cases_and_activities(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + ROW * 3 + ROW.replace("case-1", "case-2"))
    found = survey(path)
    assert (found.rows, found.cases) == (4, 2)
    assert found.event_names == {"A_SUBMITTED": "a_submitted"}


def test_a_time_without_zone_is_utc_and_a_byte_order_mark_is_no_part_of_a_name(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path, ("\ufeff" + HEADER + "c,A,2011-10-01 00:38:44,r\n").replace(",", ";").encode()
    )
    (row,) = read_log(path)
    assert row.occurred_at == datetime(2011, 10, 1, 0, 38, 44, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ["log.csv: the log is empty"]),
        (HEADER, ["no events"]),
        ("case,activity\n1,2\n", ["log.csv:1", "'case:concept:name'", "found: 'case', 'activity'"]),
        (HEADER.replace("org:resource", "concept:name"), ["log.csv:1", "'concept:name'", "twice"]),
        (HEADER + ROW + "case-1,A\n", ["log.csv:3", "2 fields", "4"]),
        (HEADER + ROW + " ,A,2011-10-01,r\n", ["log.csv:3", "'case:concept:name' is empty"]),
        (HEADER + ROW + "c,A,yesterday,r\n", ["log.csv:3", "'yesterday'"]),
        (HEADER + '"a\nb",A,2011-10-01,r\n', ["log.csv:2", "ordering key"]),
        (HEADER + ROW + 'c,A,2011-10-01,"r', ["log.csv:3", "not CSV"]),
        ((HEADER + ROW).encode() + b"c,\xe9,2011-10-01,r\n", ["log.csv:3", "0xe9", "latin1"]),
        (HEADER + f"c,A,2011-10-01,{'x' * 1024 * 1024}\n", ["log.csv:2", "1,048,576"]),
        (HEADER + f"c,A,2011-10-01,{'x' * 3 * 1024 * 1024}\n", ["log.csv:2", "1,048,576"]),
    ],
)
def test_bad_input_is_refused_by_its_line(
    tmp_path: Path, content: str | bytes, said: list[str]
) -> None:
    text = refusal(write(tmp_path, content))
    for part in said:
        assert part in text


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.csv")
    assert "directory" in refusal(tmp_path)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
            st.text(st.characters(codec="utf-8"), max_size=20),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_what_csv_can_write_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["concept:name", "note", "time:timestamp", "case:concept:name"])
        writer.writerows(["A", note, "2011-10-01", case] for case, note in rows)
    read = list(read_log(path))
    assert [(row.case_id, json.loads(row.payload)["note"]) for row in read] == rows
