"""What a process waits for: known since the first time, and said again when it lasts."""

from __future__ import annotations

import logging

import pytest

from seaway.consumer.state import Breaker
from seaway.telemetry import Signal, StillWaiting, Telemetry, log_signal

PART = "consumer case_mgmt__from_sea"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("seaway.telemetry.monotonic", made)
    return made


@pytest.fixture
def telemetry() -> tuple[Telemetry, list[Signal]]:
    said: list[Signal] = []
    made = Telemetry()
    made.subscribe(said.append)
    return made, said


def minutes(said: list[Signal]) -> list[float]:
    return [one.waited.total_seconds() / 60 for one in said if isinstance(one, StillWaiting)]


def test_what_lasts_is_said_after_a_minute_and_then_every_five(
    clock: Clock, telemetry: tuple[Telemetry, list[Signal]]
) -> None:
    tell, said = telemetry
    for second in range(0, 17 * 60, 10):
        clock.now = 1000.0 + second
        tell.waiting(PART, "database", f"away, {second}")
    assert minutes(said) == [1, 6, 11, 16]
    last = said[-1]
    assert isinstance(last, StillWaiting)
    assert last.wait.reason == "away, 960"
    assert last.wait.since == tell.waits[0].since


def test_what_begins_anew_is_counted_anew(
    clock: Clock, telemetry: tuple[Telemetry, list[Signal]]
) -> None:
    tell, said = telemetry
    tell.waiting(PART, "database", "away")
    clock.now += 59
    tell.going_on(PART, "database")
    tell.going_on(PART, "database")
    assert not tell.waits
    clock.now += 59
    tell.waiting(PART, "database", "away")
    clock.now += 59
    tell.waiting(PART, "database", "away")
    tell.waiting(PART, "server", "away")
    assert minutes(said) == []
    assert [wait.about for wait in tell.waits] == ["database", "server"]


def test_a_consumers_pause_is_reminded_of_between_two_probes_and_logged(
    clock: Clock,
    telemetry: tuple[Telemetry, list[Signal]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell, _ = telemetry
    tell.subscribe(log_signal)
    breaker = Breaker("case_mgmt__from_sea", tell)
    with caplog.at_level(logging.WARNING, "seaway"):
        breaker.trip("downstream", "the register is away", now=0)
        for _ in range(3):
            clock.now += 61
            breaker.remind()
        breaker.resume("downstream")
        clock.now += 600
        breaker.remind()
    assert [record.getMessage() for record in caplog.records] == [
        "case_mgmt__from_sea paused: the register is away",
        "consumer case_mgmt__from_sea still waits after 1 min: the register is away",
    ]
