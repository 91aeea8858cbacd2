"""Queries: loading statements, filling in parameters, and work as a generator of queries.

    stores/{engine}/statements.sql ──> Statements.of("claim", ...) ──> Query
    work: yield Query ──> the driver runs it ──> its rows, or the driver's own error, come back

Work is a generator of queries: each may depend on the rows before it, and the generator does not
know which driver runs it, awaited or not. Must not know any driver, and runs nothing by itself.
Guarantees: a statement is there when the module that needs it is imported, or the import fails.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import lru_cache, partial
from importlib.resources import files
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from seaway.databases import times
from seaway.databases.engines import Engine
from seaway.tables import within

T = TypeVar("T")

Row: TypeAlias = Any
"""A tuple, or what unpacks like one."""
Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_REMARKS = re.compile(r"\A(--.*\n)+|^-- -{9,}.*\n", re.MULTILINE)
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")
_NUMBERED = re.compile(r"\$(\d)")

SAVE = "SAVEPOINT seaway_transaction"
"""Spans a transaction of ours. It dies with any COMMIT or ROLLBACK, so a body that ends the
transaction itself is found out."""
RELEASE = f"RELEASE {SAVE}"
UNDO = f"ROLLBACK TO {SAVE}"


class Query(NamedTuple):
    """A statement and its parameters: in order (``$1``, ``?``), or by name (``:consumer``).

    ``gives``: it gives rows. ``many``: ``parameters`` is a list, and the statement runs once for
    each item.
    """

    statement: str
    parameters: Parameters = ()
    gives: bool = True
    many: bool = False


# ------------------------------------------------------------------- statements


class Statements(Mapping[str, str]):
    """The blocks ``-- name: claim`` of an engine's file, by name, in the engine's own words.

    ``schema``: where the tables are; ``None`` leaves that to the connection's search path.
    Parameters are written ``:consumer`` in the file, on every engine.
    """

    def __init__(
        self, engine: Engine, schema: str | None = None, file: str = "statements.sql"
    ) -> None:
        self._engine = engine
        self._texts: dict[str, str] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {}
        text = files("seaway").joinpath("stores", engine.name, file).read_text("utf-8")
        _, *parts = _BLOCK.split(text)
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            body = _REMARKS.sub("", body).strip()
            self._names[name] = names = tuple(dict.fromkeys(_NAMED.findall(body)))
            if engine.numbered:
                body = _NAMED.sub(partial(_number, names), body)
            self._texts[name] = within(body, schema if engine.schemas else None)
            if len(names) > 1:  # As fast as it can be had: a claim is one for each delivery.
                self._values[name] = itemgetter(*names)
            else:
                self._values[name] = partial(_values, names)

    def of(self, name: str, given: Mapping[str, Any], *, gives: bool = True) -> Query:
        """The statement of that name with its parameters out of ``given``, which may hold more;
        many ids or keys as a list. ``now`` is there for engines that are given the time."""
        engine, names = self._engine, self._names[name]
        if "now" in names:
            given = {**given, "now": times.now()}
        if (value := engine.value) is not None:
            given = {each: value(given[each]) for each in names}
        taken = self._values[name](given) if engine.numbered else given
        return Query(self._texts[name], taken, gives)

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __iter__(self) -> Any:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _values(names: Sequence[str], given: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(given[name] for name in names)


def _number(names: Sequence[str], found: re.Match[str]) -> str:
    return f"${names.index(found[1]) + 1}"


@lru_cache(maxsize=64)
def named(statement: str, form: str) -> str:
    """``statement`` with a name for each of its ``$1``: ``form`` is ``:{}`` or ``%({})s``."""
    return _NUMBERED.sub(lambda found: form.format(f"p{found[1]}"), statement)


def by_name(*parameters: Any) -> Mapping[str, Any]:
    """The parameters of a ``named`` statement."""
    return {f"p{place}": value for place, value in enumerate(parameters, 1)}


# ------------------------------------------------------------------- work in steps

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
