"""Child processes and faults: deaths are noticed, strikes come at their moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from seaway.demo.run import strikes
from seaway.proof.faults import Strike, strike
from seaway.proof.supervisor import ChildFailed, Supervisor, death


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Poll ``condition`` until it holds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_killed_child_is_noticed_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    # ``python -m asyncio`` is an interpreter that lives until its standard input ends.
    child = await supervisor.start("worker", ["asyncio"], log=tmp_path / "worker.log")
    first = child.pid
    assert first is not None
    child.send(signal.SIGKILL)
    await until(lambda: child.restarts == 1)
    assert child.pid not in (None, first)
    assert said == [f"worker killed by SIGKILL, restarted as pid {child.pid}"]
    last = child.pid
    assert last is not None
    await supervisor.stop()
    await supervisor.stop()
    assert not runs(last)
    child.send(signal.SIGKILL)


async def test_a_child_that_can_not_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    await supervisor.start("worker", ["seaway_has_no_such_module"], log=tmp_path / "worker.log")
    await until(lambda: supervisor.failed())
    failure = supervisor.failed()
    assert isinstance(failure, ChildFailed)
    assert "No module named" in str(failure)
    await supervisor.stop()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-signal.SIGKILL, "killed by SIGKILL"),
        (-250, "killed by signal 250"),
        (0, "exited with 0"),
        (3, "exited with 3"),
    ],
)
def test_how_a_process_ended_is_told_in_words(code: int, words: str) -> None:
    assert death(code) == words


async def test_every_fault_strikes_once_when_its_victim_has_come_so_far() -> None:
    done = {"relay": 0.0, "case_mgmt": 0.0, "analytics": 0.0, "nats-server": 0.0}
    struck: list[str] = []
    looked = 0

    async def share() -> dict[str, float]:
        nonlocal looked
        looked += 1
        return done

    async def carry_out(one: Strike) -> None:
        struck.append(f"{one.fault} {one.victim}")

    striking = asyncio.create_task(strike(tuple(strikes()), share, carry_out))

    async def reach(reached: float, *victims: str) -> list[str]:
        before, seen = len(struck), looked
        done.update(dict.fromkeys(victims, reached))
        await until(lambda: looked > seen + 1 or striking.done())
        return struck[before:]

    await until(lambda: looked)
    assert await reach(0.16, "relay") == ["kill relay"]
    assert await reach(0.17, "relay") == []
    assert await reach(0.21, "case_mgmt") == ["kill case_mgmt"]
    assert sorted(await reach(0.55, "relay", "case_mgmt", "analytics")) == [
        "kill analytics",
        "kill analytics",
        "kill case_mgmt",
        "kill relay",
    ]
    assert await reach(0.55, "nats-server") == ["outage nats-server"]
    assert sorted(await reach(1.0, *done)) == ["kill analytics", "kill case_mgmt", "kill relay"]
    assert await asyncio.wait_for(striking, 5)


async def test_a_resumed_run_is_not_struck_for_what_lies_behind_it() -> None:
    async def share() -> dict[str, float]:
        return {"relay": 1.0}

    async def carry_out(one: Strike) -> None:
        raise AssertionError(one)

    assert await strike([Strike(0.5, "kill", "relay")], share, carry_out)


async def test_a_fault_that_is_never_due_is_given_up() -> None:
    async def share() -> dict[str, float]:
        return {"relay": 0.0}

    async def carry_out(one: Strike) -> None:
        raise AssertionError(one)

    late = [Strike(0.5, "kill", "relay")]
    assert not await strike(late, share, carry_out, patience=timedelta(milliseconds=20))
