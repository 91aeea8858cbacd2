"""The doctor's table and arithmetic: every finding has its words, and what is near is told."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter

import pytest

from seaway.config import Settings
from seaway.contracts import ConsumerInfo, Granted, Notice, SchemaChange, StreamInfo
from seaway.doctor import BY_CODE, ENTRIES, Diagnosis, Gathered, diagnose, known, markdown, page
from seaway.doctor.streams import dropped_in
from seaway.doctor.table import code_of
from seaway.errors import ConfigError
from seaway.monitor import Report, Snapshot, checks
from seaway.topology import Rights, lacking_rights

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
STREAM = StreamInfo(
    name="SEA_EVENTS",
    subjects=("sea.event.>",),
    created="2026-01-01T00:00:00Z",
    document={"config": {"max_age": 10 * 3600 * 10**9}},
    retention="limits",
    messages=11,
    bytes=1100,
    first_seq=1,
    last_seq=11,
    consumer_count=1,
    first_at=NOW - 9 * HOUR,
    last_at=NOW + HOUR,
)
DURABLE = ConsumerInfo(
    stream="SEA_EVENTS",
    durable="case_mgmt__from_sea",
    created="2026-01-01T00:00:00Z",
    num_pending=8,
    num_ack_pending=0,
    num_redelivered=0,
    num_waiting=0,
    consumer_seq=3,
    stream_seq=3,
    ack_floor=3,
)


def test_the_page_is_made_of_the_table() -> None:
    written = (ROOT / "docs" / "reference" / "doctor.md").read_text()
    assert written == page(), (
        "write it again: seaway doctor --explain all > docs/reference/doctor.md"
    )
    assert re.findall(r"^### (SW-\d{3})$", written, re.M) == [one.code for one in ENTRIES]


def test_every_finding_is_provoked_in_a_test() -> None:
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("*/test_doctor*.py"))
    assert {code for code in BY_CODE if code not in tests} == set()
    assert len(BY_CODE) == len(ENTRIES)


def test_every_check_has_a_code() -> None:
    named = set(re.findall(r"^\| (\w+) ", checks.__doc__ or "", re.M)) - {"check"}
    without = {one for one in named if code_of(one, "") == "SW-001"}
    assert without == set()
    assert code_of("another", "") == "SW-001"
    assert code_of("stream", "SEAWAY_ADVISORIES") == "SW-202"


def test_the_words_of_a_finding_are_words() -> None:
    for one in ENTRIES:
        fields = {
            name for text in (one.seen, one.mend) for _, name, _, _ in Formatter().parse(text)
        }
        assert one.title[0].isupper() or one.title.startswith(("ack_wait", "max_ack"))
        assert one.why.endswith((".", "`."))
        assert fields - {None}, one.code


@pytest.mark.parametrize(
    ("floor", "told"),
    [
        (0, ("in about 1h", "max_age")),
        (2, ("in about 3h", "max_age")),
        (3, ("in about 4h", "max_age")),
        (4, None),  # Half of its time is left.
    ],
)
def test_what_is_dropped_by_age(floor: int, told: tuple[str, str] | None) -> None:
    assert dropped_in(replace(DURABLE, ack_floor=floor), STREAM, NOW) == told


def test_what_is_dropped_for_want_of_room() -> None:
    full = replace(STREAM, document={"config": {}}, max_bytes=1500)
    assert dropped_in(DURABLE, full, NOW) == (
        *("after 7 messages more, in about 7h at the rate until now", "max_bytes"),
    )
    assert dropped_in(DURABLE, replace(full, refuses_when_full=True), NOW) is None
    assert dropped_in(DURABLE, replace(full, max_bytes=1700), NOW) is None
    assert dropped_in(DURABLE, replace(full, retention="workqueue"), NOW) is None


def test_a_right_is_had_whole_or_not_at_all() -> None:
    wanted = Rights("relay", ("sea.event.>", "$JS.API.STREAM.INFO.SEA_EVENTS"))
    assert lacking_rights(wanted, Granted()) == []
    assert lacking_rights(wanted, Granted(publish=("sea.>", "$JS.API.>"))) == []
    assert lacking_rights(wanted, Granted(publish=("sea.event.a.v1", "$JS.API.>"))) == [
        "sea.event.>"
    ]
    assert lacking_rights(wanted, Granted(deny_publish=("sea.event.a.v1",))) == ["sea.event.>"]


def test_figures_are_read_as_far_as_they_are_some() -> None:
    assert Notice("relay", reason='{"needs":3,"odd":"x","flag":null}').figures == {"needs": 3}
    for reason in ("", "no", "[1]", "{", '{"a":'):
        assert Notice("relay", reason=reason).figures == {}
    assert Notice("relay", "SEA_EVENTS", '{"needs":3}').figures == {}


def gathered() -> Gathered:
    seen = Snapshot(NOW)
    changes = [SchemaChange(6, "parked.post", False, "post")]
    return Gathered(Settings(), seen, seen, Report(()), changes=changes)


def test_what_is_left_out_is_counted() -> None:
    found = diagnose(gathered())
    assert [(one.entry.code, one.seen) for one in found.ailments] == [
        ("SW-602", "not applied: 0006_parked.post")
    ]
    assert not found.grave
    left_out = diagnose(gathered(), skip=["sw-602"])
    assert left_out.ailments == ()
    assert left_out.skipped == ("SW-602",)
    assert left_out.examined == found.examined - 1
    assert "0 warnings" not in markdown(left_out)
    assert "- **Seen:** not applied" in markdown(found)
    with pytest.raises(ConfigError, match="did you mean SW-602"):
        diagnose(gathered(), skip=["SW-6o2"])
    with pytest.raises(ConfigError, match="there is no finding 'x'"):
        known("x")


def test_nothing_reached_is_said_by_the_exit_code() -> None:
    assert Diagnosis((), (), reachable=False).exit_code == 3
    assert Diagnosis((), ()).exit_code == 0
