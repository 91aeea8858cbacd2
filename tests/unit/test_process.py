"""Gaps in the life of a process."""

from __future__ import annotations

from datetime import timedelta

import pytest

from seaway.process import Gap, running_time


def test_it_never_goes_back() -> None:
    moments = [running_time() for _ in range(100)]
    assert moments == sorted(moments)


def test_a_gap_is_what_passed_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 4.0, 8.0, 13.1, 14.0])
    monkeypatch.setattr("seaway.process.running_time", lambda: next(moments))
    gap = Gap(timedelta(seconds=5))
    assert [gap.check_and_restart() for _ in range(4)] == [False, False, True, False]
