"""Database work as a generator of queries: each may depend on the rows before it, and the generator
does not know which driver runs it.

    work: yield Query ──> the driver runs it ──> its rows, or the driver's own error, come back

Owns: how such work is carried out, awaited or not. Runs nothing by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from seaway.databases.engines import Engine, Parameters

T = TypeVar("T")

Row: TypeAlias = Any
"""A tuple, or what unpacks like one."""


class Query(NamedTuple):
    """A statement and its parameters: in order (``$1``, ``?``), or by name (``:consumer``).

    ``gives``: it gives rows. ``many``: ``parameters`` is a list, and the statement runs once for
    each item.
    """

    statement: str
    parameters: Parameters = ()
    gives: bool = True
    many: bool = False


Steps: TypeAlias = Generator[Query, Sequence[Row], T]
Work: TypeAlias = Callable[[Engine], Steps[T]]
"""A function that takes the handle's engine and returns the steps for it."""


def carried_out(steps: Steps[T], run: Callable[[Query], Sequence[Row]]) -> T:
    """Run each query of ``steps`` with ``run`` and return their result; errors of ``run`` are
    thrown into ``steps``."""
    try:
        query = next(steps)
        while True:
            try:
                rows = run(query)
            except Exception as error:
                query = steps.throw(error)
            else:
                query = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def awaited(steps: Steps[T], run: Callable[[Query], Awaitable[Sequence[Row]]]) -> T:
    """The same where ``run`` is awaited. Cancelled, no further step is taken."""
    try:
        query = next(steps)
        while True:
            try:
                rows = await run(query)
            except Exception as error:
                query = steps.throw(error)
            else:
                query = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result
