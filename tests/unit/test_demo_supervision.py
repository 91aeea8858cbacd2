"""Child processes and faults: deaths are noticed, strikes come at their moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from seaway.demo import chaos
from seaway.demo.supervisor import Supervisor, WorkerFailed, death


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
    supervisor.kill("worker")
    await until(lambda: child.restarts == 1)
    assert child.pid not in (None, first)
    assert said == [f"worker killed by SIGKILL, restarted as pid {child.pid}"]
    last = child.pid
    assert last is not None
    await supervisor.stop()
    await supervisor.stop()
    assert not runs(last)
    supervisor.kill("worker")


async def test_a_child_that_can_not_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    await supervisor.start("worker", ["seaway_has_no_such_module"], log=tmp_path / "worker.log")
    await until(lambda: supervisor.failed())
    failure = supervisor.failed()
    assert isinstance(failure, WorkerFailed)
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
    changed = asyncio.Condition()
    struck: list[str] = []

    async def outage() -> None:
        struck.append("outage")

    striking = asyncio.create_task(
        chaos.strike(
            tuple(chaos.plan("relay", ["case_mgmt", "analytics"])),
            share_done=lambda: done,
            changed=changed,
            kill=struck.append,
            outage=outage,
        )
    )

    async def reach(share: float, *victims: str) -> list[str]:
        await asyncio.sleep(0)
        before = len(struck)
        done.update(dict.fromkeys(victims, share))
        async with changed:
            changed.notify_all()
        for _ in range(5):
            await asyncio.sleep(0)
        return struck[before:]

    assert await reach(0.16, "relay") == ["relay"]
    assert await reach(0.17, "relay") == []
    assert await reach(0.21, "case_mgmt") == ["case_mgmt"]
    assert sorted(await reach(0.55, "relay", "case_mgmt", "analytics")) == [
        "analytics",
        "analytics",
        "case_mgmt",
        "relay",
    ]
    assert await reach(0.55, "nats-server") == ["outage"]
    assert sorted(await reach(1.0, *done)) == ["analytics", "case_mgmt", "relay"]
    await asyncio.wait_for(striking, 5)


async def test_a_resumed_run_is_not_struck_for_what_lies_behind_it() -> None:
    async def outage() -> None:
        raise AssertionError("behind us")

    await asyncio.wait_for(
        chaos.strike(
            tuple(chaos.plan("relay", ["case_mgmt"])),
            share_done=lambda: {"relay": 1.0, "case_mgmt": 1.0, "nats-server": 1.0},
            changed=asyncio.Condition(),
            kill=lambda name: pytest.fail(name),
            outage=outage,
        ),
        5,
    )
