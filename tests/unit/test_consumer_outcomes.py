"""Every row of the outcome table that needs a decision."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.consumer.outcomes import Bury, Keep, Limits, TryAgain, decide
from seaway.errors import BrokerUnavailable, DecodeError, Poison, Retry, StoreUnavailable
from seaway.retry import Backoff

LIMITS = Limits(ack_wait=timedelta(seconds=120), max_deliver=20, max_ack_pending=50)
ENDLESS = Limits(ack_wait=timedelta(seconds=120), max_deliver=-1, max_ack_pending=50)
BACKOFF = Backoff(cap=timedelta(seconds=120))
LAST = LIMITS.max_deliver


@pytest.mark.parametrize("deliveries", [1, LAST - 1, LAST, LAST + 1])
def test_poison_is_buried_at_once(deliveries: int) -> None:
    step = decide(Poison("bad"), deliveries=deliveries, limits=LIMITS, backoff=BACKOFF)
    assert step == Bury("poison")


@pytest.mark.parametrize("deliveries", [1, LAST])
def test_what_cannot_be_read_is_buried_at_once(deliveries: int) -> None:
    step = decide(DecodeError("bad"), deliveries=deliveries, limits=LIMITS, backoff=BACKOFF)
    assert step == Bury("undecodable")


@pytest.mark.parametrize(
    "error",
    [
        Retry(),
        Retry(after=timedelta(hours=1)),
        ValueError("x"),
        TimeoutError(),
        BrokerUnavailable(),
    ],
)
def test_a_failure_is_tried_again_until_the_last_delivery(error: Exception) -> None:
    before = decide(error, deliveries=LAST - 1, limits=LIMITS, backoff=BACKOFF)
    assert isinstance(before, TryAgain)
    for deliveries in (LAST, LAST + 1):
        step = decide(error, deliveries=deliveries, limits=LIMITS, backoff=BACKOFF)
        assert step == Bury("exhausted")


def test_without_a_limit_there_is_no_last_delivery() -> None:
    step = decide(ValueError(), deliveries=10**6, limits=ENDLESS, backoff=BACKOFF)
    assert isinstance(step, TryAgain)


@pytest.mark.parametrize(
    ("asked", "given_"),
    [
        (timedelta(seconds=7), timedelta(seconds=7)),
        (timedelta(0), timedelta(0)),
        (timedelta(seconds=-3), timedelta(0)),
        (timedelta(days=2), timedelta(days=2)),
    ],
)
def test_retry_names_its_delay(asked: timedelta, given_: timedelta) -> None:
    step = decide(Retry(after=asked), deliveries=1, limits=LIMITS, backoff=BACKOFF)
    assert step == TryAgain(given_)


@pytest.mark.parametrize("deliveries", [1, LAST, LAST + 5])
def test_the_absence_of_the_database_is_never_the_messages_fault(deliveries: int) -> None:
    step = decide(StoreUnavailable(), deliveries=deliveries, limits=LIMITS, backoff=BACKOFF)
    assert step == Keep()


@given(st.integers(1, 10**6))
def test_the_backoff_stays_below_ack_wait(deliveries: int) -> None:
    step = decide(ValueError(), deliveries=deliveries, limits=ENDLESS, backoff=BACKOFF)
    assert isinstance(step, TryAgain)
    assert timedelta(0) < step.delay <= LIMITS.ack_wait
