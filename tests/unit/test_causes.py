"""What a driver said is found behind whatever was made of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seaway.databases.refusals import causes, session_lost


class Said(Exception):
    """By the driver."""


def raised_from() -> None:
    try:
        raise Said("busy")
    except Said as error:
        raise ValueError("wrapped") from error


def hidden() -> None:
    try:
        raise Said("busy")
    except Said:
        raise ValueError("hidden") from None


def twice() -> None:
    try:
        raised_from()
    except ValueError:
        raise KeyError("again")  # noqa: B904 - as users do


def grouped() -> None:
    try:
        hidden()
    except ValueError as error:
        raise ExceptionGroup("several", [KeyError("other"), error])  # noqa: B904 - as users do


def found_by(provoke: Callable[[], None]) -> list[BaseException]:
    with pytest.raises(Exception) as caught:
        provoke()
    return list(causes(caught.value))


@pytest.mark.parametrize("provoke", [raised_from, hidden, twice, grouped])
def test_it_is_found(provoke: Callable[[], None]) -> None:
    found = found_by(provoke)
    assert [str(one) for one in found if isinstance(one, Said)] == ["busy"]
    lost = session_lost("the database", found[0], lambda one: isinstance(one, Said))
    assert str(lost) == "the database: the session has ended: busy"


def test_what_no_driver_said_is_named_by_its_type() -> None:
    lost = session_lost("the database", KeyError("secret"), lambda one: isinstance(one, Said))
    assert str(lost) == "the database: the session has ended: KeyError"


def test_a_circle_ends() -> None:
    one, other = ValueError(), KeyError()
    one.__context__, other.__context__ = other, one
    assert list(causes(one)) == [one, other]
