"""The chain that running code is part of."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest

from seaway.events import Chain, chained, current_chain


def test_a_chain_begins_empty() -> None:
    assert current_chain() == Chain(None, None, None, None)


def test_inside_the_chain_is_current_and_afterwards_gone() -> None:
    with chained("request-1", "event-1", traceparent="00-a-b-01") as chain:
        assert current_chain() is chain
        with chained("request-1", "event-2"):
            assert current_chain().causation_id == "event-2"
        assert current_chain() == Chain("request-1", "event-1", "00-a-b-01")
    assert current_chain() == Chain()


def test_an_error_ends_it_too() -> None:
    with pytest.raises(LookupError), chained("request-1"):
        raise LookupError
    assert current_chain() == Chain()


async def test_tasks_inherit_it_and_do_not_disturb_each_other() -> None:
    async def work(name: str) -> tuple[str | None, str | None]:
        with chained(current_chain().correlation_id, name):
            await asyncio.sleep(0)
            chain = current_chain()
            return chain.correlation_id, chain.causation_id

    with chained("request-1"):
        found = await asyncio.gather(work("a"), work("b"))
    assert list(found) == [("request-1", "a"), ("request-1", "b")]


def test_a_thread_takes_it_along_in_a_copied_context() -> None:
    with chained("request-1"), ThreadPoolExecutor(1) as threads:
        bare = threads.submit(current_chain).result()
        copied = threads.submit(contextvars.copy_context().run, current_chain).result()
    assert bare == Chain()
    assert copied.correlation_id == "request-1"
