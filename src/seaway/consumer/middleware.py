"""What an application does around each call of a handler: Sentry, a tenant, a logging context.

    @app.middleware
    async def tell(delivery: Delivery, call_next: Callable[[], Awaitable[None]]) -> None:
        with sentry_sdk.isolation_scope():
            await call_next()

Owns: the layers around a handler, the first registered the outermost, and what they may not do
(ADR 0020). Guarantees: a delivery whose handler was not called to its end, once, never counts as
handled, whatever a middleware makes of that; every handler has every middleware of its application
around it, or is refused when it is registered.

An ``async`` middleware may stand around plain handlers too, as long as it waits for ``call_next``
alone: there it is carried through in the handler's thread.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from seaway.consumer.callables import (
    Unread,
    is_async,
    name_of,
    place_of,
    shown,
    underlying,
    wanted_by,
)
from seaway.consumer.dependencies import Called
from seaway.consumer.wiring import takes
from seaway.errors import AlreadyProcessed, ConfigError, SeawayError
from seaway.inbox.threads import carried_through

Middleware: TypeAlias = Callable[[Any, Any], Any]


def check(middleware: Middleware) -> None:
    """``ConfigError`` where it is none."""
    place = f"middleware {place_of(middleware)}"
    hint = "a middleware is async def (delivery, call_next)"
    code = underlying(middleware)
    if inspect.isclass(middleware):
        raise ConfigError(f"{place} is a class", hint="give an object of it, with __call__")
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigError(f"{place} is a generator", hint=f"{hint}, and awaits call_next()")
    wanted = wanted_by(middleware, place)
    first = [one for one in wanted[:2] if one.positional]
    if len(first) != 2 or not all(one.optional for one in wanted[2:]):
        raise ConfigError(f"{place} takes ({', '.join(one.name for one in wanted)})", hint=hint)


def surrounded(
    call: Called,
    middleware: Sequence[Middleware],
    *,
    place: str,
    plain: bool,
    delivery: type[Any],
    takes_lists: bool = False,
) -> Called:
    """``call``, of the handler at ``place``, with ``middleware`` around it; itself without any.

    ``ConfigError`` where one of them cannot stand around this handler.
    """
    for one in reversed(middleware):
        _check_pair(one, place, plain=plain, delivery=delivery, takes_lists=takes_lists)
        call = _around_plain(one, call) if plain else _around(one, call)
    return call


def _check_pair(
    one: Middleware, place: str, *, plain: bool, delivery: type[Any], takes_lists: bool
) -> None:
    who = f"middleware {place_of(one)}"
    if not plain and not is_async(one):
        raise ConfigError(
            f"{who} is plain, and {place} is async",
            hint="write it as async def: it may stand around plain handlers too",
        )
    said = wanted_by(one, who)[0].said
    if said is Any or takes(said, delivery, lists=takes_lists):
        return
    name, unread = delivery.__name__, said is None or isinstance(said, Unread)
    if takes_lists:
        what = f"one {name}" if unread else shown(said)
        raise ConfigError(
            f"{who} takes {what}, and batch handler {place.partition(' ')[2]} is given a list",
            hint=f"annotate its first parameter {name} | list[{name}]",
        )
    if not unread:
        raise ConfigError(
            f"{who} takes {shown(said)}, and {place} is given one {name}",
            hint=f"annotate its first parameter {name}, or {name} | list[{name}]",
        )


def _around(one: Middleware, inner: Called) -> Called:
    async def call(event: Any, delivery: Any) -> None:
        with _Following(one, inner, event, delivery) as following:
            await one(delivery, following.call)

    return call


def _around_plain(one: Middleware, inner: Called) -> Called:
    who, waits = f"middleware {name_of(one)}", is_async(one)

    def call(event: Any, delivery: Any) -> Any:
        with _Following(one, inner, event, delivery) as following:
            if waits:
                carried_through(one(delivery, following.call_carried), who)
            else:
                one(delivery, following.call_plain)
        return following.returned

    return call


class _Following:
    """What a middleware is given as ``call_next``. Left, it raises what keeps the delivery from
    counting as handled, whatever the middleware made of that."""

    __slots__ = (
        *("_calls", "_delivery", "_ended", "_event", "_inner", "_middleware", "_raised"),
        "returned",
    )

    def __init__(self, middleware: Middleware, inner: Called, event: Any, delivery: Any) -> None:
        self._middleware = middleware
        self._inner = inner
        self._event = event
        self._delivery = delivery
        self._calls = 0
        self._ended = False
        self._raised: BaseException | None = None
        self.returned: Any = None
        """By a plain handler: not for the middleware, but for its caller, who looks what it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, AlreadyProcessed):
            return
        if self._raised is not None and not isinstance(self._raised, AlreadyProcessed):
            with contextlib.suppress(Exception):
                self._raised.add_note(f"{self._said('passed over this error')}: it counts")
            raise self._raised
        if self._calls > 1:
            raise self._twice()
        if self._calls and not self._ended:
            raise self._said("returned while the handler was running: await call_next()")
        if not self._calls and error is None:
            raise self._said(
                "returned without calling the handler: raise AlreadyProcessed to pass over an event"
            )

    async def call(self) -> None:
        with self._once():
            await self._inner(self._event, self._delivery)

    def call_plain(self) -> None:
        with self._once():
            self.returned = self._inner(self._event, self._delivery)

    async def call_carried(self) -> None:
        self.call_plain()

    @contextlib.contextmanager
    def _once(self) -> Iterator[None]:
        self._calls += 1
        if self._calls > 1:
            raise self._twice()
        try:
            yield
        except BaseException as error:
            self._raised = error
            raise
        finally:
            self._ended = True

    def _twice(self) -> SeawayError:
        return self._said("called call_next twice: to try again, let the error pass")

    def _said(self, what: str) -> SeawayError:
        return SeawayError(f"middleware {name_of(self._middleware)} {what}")
