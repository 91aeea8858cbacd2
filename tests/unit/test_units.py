from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.config import (
    Rate,
    format_duration,
    format_size,
    from_nanoseconds,
    parse_duration,
    parse_size,
    to_nanoseconds,
)

durations = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=100_000))


@given(durations)
def test_a_printed_duration_reads_back(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value
    assert from_nanoseconds(to_nanoseconds(value)) == value


@given(st.integers(min_value=-1, max_value=(1 << 63) - 1))
def test_a_printed_size_reads_back(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(
    st.integers(min_value=0, max_value=10**12 - 1),
    st.sampled_from([{"seconds": 1}, {"minutes": 1}, {"hours": 1}, {"days": 1}]),
)
def test_a_printed_rate_reads_back(count: int, per: dict[str, int]) -> None:
    rate = Rate(count, timedelta(**per))
    assert Rate.parse(str(rate)) == rate


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size, Rate.parse):
        with suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", timedelta(days=7)),
        ("120s", timedelta(minutes=2)),
        ("1h30m", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5h", timedelta(minutes=90)),
        ("2w", timedelta(days=14)),
        ("0", timedelta()),
        (0, timedelta()),
    ],
)
def test_durations(text: object, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "7", 7, "7x", "d", "-1s", "1m1h", "1s 2s", "1.0000001s", "999999999w", True, None]
)
def test_wrong_durations(text: object) -> None:
    with pytest.raises(ValueError, match="like 7d, 120s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10GB", 10 * 1024**3),
        ("10GiB", 10 * 1024**3),
        ("1 mb", 1024**2),
        ("1K", 1024),
        ("17B", 17),
        ("17", 17),
        (17, 17),
        ("unlimited", -1),
        (-1, -1),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "10XB", "GB", "1.5GB", -2, True, None, "-7", "9999999P"])
def test_wrong_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="like 10GB"):
        parse_size(text)


def test_rates() -> None:
    assert Rate.parse("50/min") == Rate(50, timedelta(minutes=1))
    assert Rate.parse("2/second").per_minute == 120
    for wrong in ("50", "50/fortnight", 50, "/min", "-1/s"):
        with pytest.raises(ValueError, match="like 50/min"):
            Rate.parse(wrong)


def test_printing_is_short() -> None:
    assert format_duration(timedelta(days=7)) == "7d"
    assert format_duration(timedelta(seconds=120)) == "2m"
    assert format_size(10 * 1024**3) == "10GB"
    assert format_size(1000) == "1000B"
