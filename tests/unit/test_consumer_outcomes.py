"""Every row of the outcome table that needs a decision."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.consumer.outcomes import Bury, TryAgain, decide, is_downstream
from seaway.consumer.state import Limits
from seaway.errors import (
    BrokerUnavailable,
    ConfigError,
    DecodeError,
    Poison,
    Retry,
    StoreUnavailable,
    TransactionConflict,
    Unavailable,
)
from seaway.retry import Attempts, Backoff, RetryPolicy

LIMITS = Limits(ack_wait=timedelta(seconds=120), max_deliver=20, max_ack_pending=50)
ENDLESS = Limits(ack_wait=timedelta(seconds=120), max_deliver=-1, max_ack_pending=50)
POLICY = RetryPolicy(
    {
        OSError: Attempts(3, Backoff(timedelta(hours=1), timedelta(hours=2), timedelta(hours=1))),
        FileNotFoundError: Attempts(1),
        LookupError: Attempts(backoff=Backoff(floor=timedelta(milliseconds=999))),
    },
    outages=(ConnectionError, KeyError),
)
LAST = LIMITS.max_deliver


@pytest.mark.parametrize("deliveries", [1, LAST - 1, LAST, LAST + 1])
def test_poison_is_buried_at_once(deliveries: int) -> None:
    step = decide(Poison("bad"), deliveries=deliveries, limits=LIMITS, policy=POLICY)
    assert step == Bury("poison")


@pytest.mark.parametrize("deliveries", [1, LAST])
def test_what_cannot_be_read_is_buried_at_once(deliveries: int) -> None:
    step = decide(DecodeError("bad"), deliveries=deliveries, limits=LIMITS, policy=POLICY)
    assert step == Bury("undecodable")


@pytest.mark.parametrize(
    "error",
    [
        Retry(),
        Retry(after=timedelta(hours=1)),
        ValueError("x"),
        RuntimeError(),
        BrokerUnavailable(),
    ],
)
def test_a_failure_is_tried_again_until_the_last_delivery(error: Exception) -> None:
    before = decide(error, deliveries=LAST - 1, limits=LIMITS, policy=POLICY)
    assert isinstance(before, TryAgain)
    for deliveries in (LAST, LAST + 1):
        step = decide(error, deliveries=deliveries, limits=LIMITS, policy=POLICY)
        assert step == Bury("exhausted")


def test_without_a_limit_there_is_no_last_delivery() -> None:
    step = decide(ValueError(), deliveries=10**6, limits=ENDLESS, policy=POLICY)
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
    step = decide(Retry(after=asked), deliveries=1, limits=LIMITS, policy=POLICY)
    assert step == TryAgain(given_)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (StoreUnavailable(), False),
        (TransactionConflict(), False),
        (Unavailable("the register"), True),
        (ConnectionResetError(), True),
        (KeyError(), True),
        (OSError(), False),
        (IndexError(), False),
        (BrokerUnavailable(), False),
        (Retry(), False),
        (Poison(), False),
    ],
)
def test_what_is_away_is_not_the_events_fault(error: Exception, away: bool) -> None:
    assert is_downstream(error, POLICY) == away


@pytest.mark.parametrize(
    ("error", "most"),
    [(OSError(), 3), (IsADirectoryError(), 3), (FileNotFoundError(), 1), (IndexError(), LAST)],
)
def test_the_most_specific_class_says_how_often(error: Exception, most: int) -> None:
    if most > 1:
        before = decide(error, deliveries=most - 1, limits=LIMITS, policy=POLICY)
        assert isinstance(before, TryAgain)
    step = decide(error, deliveries=most, limits=LIMITS, policy=POLICY)
    assert step == Bury("exhausted")


def test_a_kind_of_failure_has_its_own_delay() -> None:
    step = decide(IsADirectoryError(), deliveries=1, limits=LIMITS, policy=POLICY)
    assert step == TryAgain(timedelta(hours=1))
    step = decide(Retry(after=timedelta(0)), deliveries=1, limits=LIMITS, policy=POLICY)
    assert step == TryAgain(timedelta(0))


def test_a_policy_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="OSError is an outage and has attempts"):
        RetryPolicy({OSError: Attempts(2)}, outages=(OSError,))
    with pytest.raises(ConfigError, match="most is 1 or more"):
        Attempts(0)


@given(st.integers(1, 10**6))
def test_the_backoff_stays_below_ack_wait(deliveries: int) -> None:
    step = decide(ValueError(), deliveries=deliveries, limits=ENDLESS, policy=POLICY)
    assert isinstance(step, TryAgain)
    assert timedelta(0) < step.delay <= LIMITS.ack_wait
