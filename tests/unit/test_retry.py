"""The backoff's bounds."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from seaway.retry import Backoff

SHORT = Backoff(timedelta(seconds=1), timedelta(seconds=60))


def test_full_jitter_lies_between_floor_and_ceiling() -> None:
    assert SHORT.delay(3, draw=lambda: 0.0) == SHORT.floor
    assert SHORT.delay(3, draw=lambda: 1.0) == timedelta(seconds=4)
    assert SHORT.delay(10_000, draw=lambda: 1.0) == timedelta(seconds=60)


@given(attempt=st.integers(-5, 10**9), drawn=st.floats(0, 1))
def test_no_attempt_leaves_the_bounds(attempt: int, drawn: float) -> None:
    assert SHORT.floor <= SHORT.delay(attempt, draw=lambda: drawn) <= SHORT.cap
