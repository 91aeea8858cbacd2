"""Preforked processes make ids: no two make the same, wherever their clocks stand."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Sequence

import pytest

PRELUDE = """
import os, signal, sys, threading, time
import seaway.events as events
from seaway.events import new_event_id

def forked(count, work):
    "Run ``work`` in ``count`` forks; their answers, in order."
    pipes = []
    for _ in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            signal.alarm(20)  # One that hangs must not stay.
            os.close(reading)
            os.write(writing, "\\n".join(work()).encode())
            os._exit(0)
        os.close(writing)
        pipes.append(reading)
    answers = []
    for reading in pipes:
        with os.fdopen(reading) as answer:
            answers.append(answer.read().split())
        os.wait()
    return answers

def made(count=100):
    return [new_event_id() for _ in range(count)]

def set_clock(seconds):
    real = time.time_ns
    moment = real() + int(seconds * 1e9)
    time.time_ns = lambda: moment
"""


def run(script: str) -> list[list[str]]:
    """What each process of ``script`` made: a line each on stdout."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


def assert_distinct_and_rising(made: Sequence[Sequence[str]]) -> None:
    """Each process's own ids rise; none is made by two; all are UUIDv7."""
    for ids in made:
        assert len(ids) >= 100
        assert list(ids) == sorted(set(ids))
    everything = [each for ids in made for each in ids]
    assert len(set(everything)) == len(everything)
    for text in everything:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


@pytest.mark.parametrize("back", [0.0, 0.05, 5.0, 3600.0])
def test_a_clock_set_back_before_the_fork(back: float) -> None:
    """With 0 the clock stands still: all processes make theirs in one millisecond."""
    made = run(
        f"""
first = made()
set_clock(-{back})
for answer in [first + made(), *forked(8, made)]:
    print(*answer)
"""
    )
    assert len(made) == 9
    assert_distinct_and_rising(made)


def test_a_clock_set_back_in_the_children() -> None:
    made = run(
        """
def child():
    first = made()
    set_clock(-5)
    return first + made()
def grandchildren():
    made()
    set_clock(-5)
    return [each for answer in forked(2, made) for each in sorted(answer)]
print(*made())
for answer in forked(4, child):
    print(*answer)
print(*made())
for answer in forked(2, grandchildren):
    print(*answer[:100])
    print(*answer[100:])
"""
    )
    assert len(made) == 10
    assert_distinct_and_rising(made)


def test_a_fork_while_another_thread_makes_one() -> None:
    """The lock is copied as it is, and its holder is not: nobody would ever release it."""
    made = run(
        """
held, go_on = threading.Event(), threading.Event()
real = events._id_lock
class Held:
    def __enter__(self):
        real.acquire()
        if threading.current_thread() is not threading.main_thread():
            held.set()
            go_on.wait()
    def __exit__(self, *_):
        real.release()
events._id_lock = Held()
thread = threading.Thread(target=new_event_id)
thread.start()
held.wait()
answers = forked(2, made)
go_on.set()
thread.join()
for answer in [made(), *answers]:
    print(*answer)
"""
    )
    assert_distinct_and_rising(made)


def test_many_in_one_millisecond_rise_and_stay_near_it() -> None:
    """100,000 at once, as after a clock that was set back: none leaves the form of a UUIDv7."""
    [made] = run("set_clock(0)\nprint(*made(100_000))")
    assert_distinct_and_rising([made])
    first, last = (uuid.UUID(each).int >> 80 for each in (made[0], made[-1]))
    assert 0 <= last - first < 100


def test_what_two_copies_of_one_state_count_on_with_is_drawn() -> None:
    """Also where nothing tells of the copy: a snapshot of a machine, a checkpoint."""
    made = run(
        """
made()
last = events._last_id
set_clock(-5)
first = made()
events._last_id = last
print(*first)
print(*made())
"""
    )
    assert_distinct_and_rising(made)
