"""A traceback that is the user's: none of Seaway's frames, but for those of a bug of its own."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seaway
from seaway.brokers.jetstream.wire import chunks
from seaway.errors import ConfigError, SeawayError
from seaway.events import event_type_of
from seaway.logs import innermost, without_ours
from seaway.waiting import done_before

OURS = str(Path(seaway.__file__).parent)
HERE = Path(__file__).name


def caught(work: Callable[[], Any]) -> BaseException:
    """What ``work`` raises, called by Seaway itself as handlers are."""

    async def call() -> None:
        work()

    async def ours() -> None:
        await done_before(asyncio.Event(), call())

    try:
        asyncio.run(ours())
    except BaseException as error:
        return error
    raise AssertionError("it was to fail")


def frames(error: BaseException) -> list[tuple[str, str]]:
    return [(one.filename, one.name) for one in traceback.extract_tb(error.__traceback__)]


def names(error: BaseException) -> list[str]:
    return [name for _, name in frames(error)]


def own() -> None:
    raise ValueError("own")


def through_ours() -> None:
    event_type_of("no event")


def test_only_the_users_frames_are_left() -> None:
    error = without_ours(caught(own))
    assert names(error)[-2:] == ["call", "own"]
    assert not any(file.startswith(OURS) for file, _ in frames(error))


def test_what_seaway_refuses_ends_where_it_was_called() -> None:
    error = without_ours(caught(through_ours))
    assert isinstance(error, ConfigError)
    assert names(error)[-1] == "through_ours"


def test_what_is_raised_below_ours_keeps_the_user_and_who_raised_it() -> None:
    def below() -> Iterator[bytes]:
        yield b"x" * (1 // 0)

    def use() -> None:
        list(chunks(below(), 1))

    error = without_ours(caught(use))
    assert isinstance(error, ZeroDivisionError)
    assert names(error)[-2:] == ["use", "below"]
    assert not any(file.startswith(OURS) for file, _ in frames(error))


def test_a_bug_of_ours_keeps_the_frames_that_tell_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seaway.events.EventType", None)  # ``isinstance`` fails in our frame.
    error = without_ours(caught(through_ours))
    assert isinstance(error, TypeError)
    assert names(error)[-2:] == ["through_ours", "event_type_of"]


def test_with_no_frame_of_the_users_a_refusal_has_none_and_a_bug_all() -> None:
    def ours_alone(bug: bool) -> BaseException:
        names: dict[str, Any] = {"SeawayError": SeawayError}
        code = "def fail():\n    raise " + ("ValueError" if bug else "SeawayError") + "\nfail()"
        try:
            exec(compile(code, f"{OURS}/somewhere.py", "exec"), names)
        except Exception as error:
            trace = error.__traceback__
            assert trace is not None
            return error.with_traceback(trace.tb_next)
        raise AssertionError

    assert names(without_ours(ours_alone(bug=False))) == []
    assert names(without_ours(ours_alone(bug=True))) == ["<module>", "fail"]


def test_causes_and_members_of_groups_are_the_users_too() -> None:
    def chained() -> None:
        try:
            through_ours()
        except ConfigError as error:
            raise RuntimeError("chained") from error

    def several() -> None:
        members = []
        for work in (own, chained, through_ours):
            try:
                work()
            except Exception as error:
                members.append(error)
        raise ExceptionGroup("several", members)

    error = without_ours(caught(several))
    text = "".join(traceback.format_exception(error))
    assert f'File "{OURS}' not in text
    assert text.count("in through_ours") == 2
    assert text.count("in own") == 1
    before = text
    without_ours(error)
    assert "".join(traceback.format_exception(error)) == before, "idempotent"


def test_a_group_without_a_frame_of_the_users_is_known_by_its_members() -> None:
    try:
        own()
    except ValueError as error:
        group = ExceptionGroup("several", [error])
    file, line = innermost(group, __name__)
    assert (Path(file).name, line) == (HERE, own.__code__.co_firstlineno + 1)


@pytest.mark.parametrize("file", ["lib/protocol.pyx", "/build/lib/protocol.pyx", "<string>"])
def test_a_frame_without_a_file_here_is_not_the_users(file: str) -> None:
    elsewhere = {"__name__": "lib.protocol"}
    exec(compile("def fail():\n    raise ValueError", file, "exec"), elsewhere)
    with pytest.raises(ValueError) as failed:
        elsewhere["fail"]()  # type: ignore[operator]
    file, line = innermost(failed.value, __name__)
    here = test_a_frame_without_a_file_here_is_not_the_users.__code__.co_firstlineno
    assert (Path(file).name, line - here) == (HERE, 5)


def test_a_compiled_module_of_the_handlers_own_package_is_the_users() -> None:
    compiled = {"__name__": f"{__name__}.fast"}
    exec(compile("def fail():\n    raise ValueError", "fast.pyx", "exec"), compiled)
    with pytest.raises(ValueError) as failed:
        compiled["fail"]()  # type: ignore[operator]
    assert innermost(failed.value, __name__) == ("fast.pyx", 2)


def test_errors_without_end_are_followed_within_bounds() -> None:
    first = last = ValueError("first")
    for _ in range(1000):
        last.__cause__ = last = ValueError("another")
    last.__cause__ = first
    assert without_ours(first) is first
    wide = ExceptionGroup("wide", [ValueError(str(n)) for n in range(1000)])
    assert without_ours(wide) is wide
