"""Dependencies of a handler: how each is made once a delivery, opened, given, and closed.

Owns: ``Depends``, and a call of a handler with what it depends on; which of them fill what,
``wiring`` has decided. Guarantees: they are closed last opened first, after the handler and before
the transaction commits, whatever was raised; an error may change on its way through one that is
open, and does not end there. What is raised keeps its type, by which it is tried again or not, and
is noted with the dependency's name.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from seaway.consumer.callables import is_async, underlying
from seaway.errors import AlreadyProcessed, ConfigError

Called: TypeAlias = Callable[[Any, Any], Any]
"""A handler with all that it needs besides its event and its delivery."""


@dataclass(frozen=True, slots=True)
class Depends:
    """``Annotated[Thing, Depends(provider)]``: ``provider`` fills a parameter, once a delivery.

    ``provider``: a function, plain or async, a class, or a generator that yields once: what comes
    after its ``yield`` closes the thing when the handler has ended, before the commit. It may ask
    for the event and the delivery, by annotation, and for dependencies of its own. Everybody who
    asks within one delivery gets the same thing. What it raises fails the delivery, as if the
    handler had raised it. A plain handler's providers are plain too; those of an async handler run
    in the event loop and must not block it.
    """

    provider: Callable[..., Any]

    def __post_init__(self) -> None:
        if not callable(self.provider):
            raise ConfigError(f"Depends({self.provider!r}): what fills a parameter is a function")


class Arguments(NamedTuple):
    """Which values a call is given, by their place among all, and under which name."""

    positional: tuple[int, ...]
    named: tuple[tuple[str, int], ...]

    def of(self, call: Callable[..., Any], values: Sequence[Any]) -> Any:
        return call(
            *(values[at] for at in self.positional), **{name: values[at] for name, at in self.named}
        )


class Step(NamedTuple):
    """A dependency to be made. ``opens``: it gives a context, to be entered and left."""

    make: Callable[..., Any]
    arguments: Arguments
    waits: bool
    opens: bool
    place: str


def made_by(provider: Callable[..., Any]) -> tuple[Callable[..., Any], bool, bool]:
    """How a thing of ``provider`` is made, whether that waits, whether it is to be opened."""
    code = underlying(provider)
    if inspect.isasyncgenfunction(code):
        return asynccontextmanager(provider), True, True
    if inspect.isgeneratorfunction(code):
        return contextmanager(provider), False, True
    inner = inspect.unwrap(code)
    if inner is not code and inspect.isasyncgenfunction(inner):  # @asynccontextmanager
        return provider, True, True
    if inner is not code and inspect.isgeneratorfunction(inner):  # @contextmanager
        return provider, False, True
    return provider, is_async(provider), False


def with_dependencies(
    handler: Callable[..., Any], arguments: Arguments, steps: Sequence[Step], *, plain: bool
) -> Called:
    """One way for both kinds: with plain providers and a plain handler it never waits."""
    opens = any(step.opens for step in steps)

    async def call(event: Any, delivery: Any) -> Any:
        values = [event, delivery]
        async with AsyncExitStack() if opens else nullcontext() as opened:
            for step in steps:
                try:
                    made = step.arguments.of(step.make, values)
                    if step.opens:
                        assert opened is not None
                        made = await opened.enter_async_context(_Opened(made, step.place))
                    elif step.waits:
                        made = await made
                except Exception as error:
                    _note(error, f"while {step.place} was made or opened")
                    raise
                values.append(made)
            done = arguments.of(handler, values)
            return done if plain else await done

    return call


class _Opened:
    """A dependency that is open. An error may pass through it and change there, but not end."""

    __slots__ = ("_context", "_place")

    def __init__(self, context: Any, place: str) -> None:
        self._context = context
        self._place = place

    async def __aenter__(self) -> Any:
        if hasattr(self._context, "__aenter__"):
            return await self._context.__aenter__()
        return self._context.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if hasattr(self._context, "__aexit__"):
                await self._context.__aexit__(kind, error, trace)
            else:
                self._context.__exit__(kind, error, trace)
        except Exception as other:
            if error is not None and isinstance(other, AlreadyProcessed):
                raise error from None  # Or what the handler did before it failed would commit.
            if other is not error:
                _note(other, f"while {self._place} was closed")
            raise


def _note(error: Exception, where: str) -> None:
    # An exception may be a frozen dataclass.
    with contextlib.suppress(Exception):
        error.add_note(where)
