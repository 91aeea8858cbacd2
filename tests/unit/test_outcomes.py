"""How deliveries end, row by row of the contract's table."""

from __future__ import annotations

from datetime import timedelta

import pytest

from seaway.consumer.outcomes import Bury, Keep, Limits, Step, TryAgain, decide
from seaway.errors import DecodeError, Poison, Retry, StoreUnavailable
from seaway.retry import Backoff

LIMITS = Limits(ack_wait=timedelta(seconds=120), max_deliver=20, max_ack_pending=50)
HALF = Backoff(cap=LIMITS.ack_wait)


@pytest.mark.parametrize(
    ("error", "deliveries", "step"),
    [
        (Poison("bad"), 1, Bury("poison")),
        (Poison("bad"), 20, Bury("poison")),
        (DecodeError("no"), 1, Bury("undecodable")),
        (Retry(after=timedelta(seconds=7)), 1, TryAgain(timedelta(seconds=7))),
        (Retry(after=timedelta(seconds=-7)), 1, TryAgain(timedelta(0))),
        (Retry(after=timedelta(seconds=7)), 20, Bury("exhausted")),
        (ValueError("x"), 20, Bury("exhausted")),
        (ValueError("x"), 25, Bury("exhausted")),
        (TimeoutError(), 20, Bury("exhausted")),
        (StoreUnavailable(), 1, Keep()),
        (StoreUnavailable(), 20, Keep()),
    ],
)
def test_the_table(error: BaseException, deliveries: int, step: Step) -> None:
    assert decide(error, deliveries=deliveries, limits=LIMITS, backoff=HALF) == step


@pytest.mark.parametrize("deliveries", [1, 5, 19])
def test_other_errors_back_off_up_to_ack_wait(deliveries: int) -> None:
    step = decide(ValueError("x"), deliveries=deliveries, limits=LIMITS, backoff=HALF)
    assert isinstance(step, TryAgain)
    assert timedelta(0) < step.delay <= min(LIMITS.ack_wait, timedelta(seconds=2**deliveries))


def test_without_a_limit_it_is_tried_for_ever() -> None:
    endless = Limits(LIMITS.ack_wait, max_deliver=-1, max_ack_pending=1)
    step = decide(ValueError("x"), deliveries=10_000, limits=endless, backoff=HALF)
    assert isinstance(step, TryAgain)


def test_full_jitter_stays_between_floor_and_ceiling() -> None:
    backoff = Backoff(timedelta(seconds=1), timedelta(seconds=60))
    assert backoff.delay(3, draw=lambda: 0.0) == backoff.floor
    assert backoff.delay(3, draw=lambda: 1.0) == timedelta(seconds=4)
    assert backoff.delay(10_000, draw=lambda: 1.0) == timedelta(seconds=60)
