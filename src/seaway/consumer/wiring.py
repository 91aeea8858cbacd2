"""What a handler asks for besides its event: the delivery, and dependencies.

    async def bill(event: CaseOpened, cases: Annotated[Cases, Depends(cases_of)]) -> None

Owns: who fills each parameter of a handler and of its dependencies, decided once, at registration
(ADR 0020). Guarantees: a handler of an event and a delivery is called as it is, with nothing in
between; a parameter that nobody fills is a ``ConfigError`` that names it and its handler.

A parameter is filled by its ``Depends``; else by its annotation, with the event or the delivery;
else it keeps its default. In a handler the first is the event, and a second without annotation and
default is the delivery.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from seaway.consumer.callables import (
    Unread,
    Wanted,
    is_async,
    place_of,
    shown,
    underlying,
    wanted_by,
)
from seaway.consumer.dependencies import (
    Arguments,
    Called,
    Depends,
    Step,
    made_by,
    with_dependencies,
)
from seaway.errors import ConfigError
from seaway.inbox.threads import carried_through

Overrides: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""What stands in for a provider, in a test."""

_EVENT, _DELIVERY = 0, 1
"""Where event and delivery are among the values of a call; those of dependencies come after."""


class Wired(NamedTuple):
    """A handler that is called with event and delivery alone. ``used``: its providers."""

    call: Called
    plain: bool
    used: tuple[Callable[..., Any], ...] = ()


def wire(
    handler: Callable[..., Any],
    given: tuple[type[Any], type[Any]],
    *,
    takes_lists: bool = False,
    overrides: Overrides | None = None,
) -> Wired:
    """``handler`` with its dependencies, to be called with event and delivery.

    ``given``: the classes of both. ``takes_lists``: it is called with lists of them. Calls
    nothing. ``ConfigError`` names the handler and the parameter that nobody fills.
    """
    place = f"handler {place_of(handler)}"
    if inspect.isclass(handler):
        raise ConfigError(f"{place} is a class", hint="give an object of it, with __call__")
    code = underlying(handler)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ConfigError(f"{place} yields", hint="a handler handles its event and returns")
    plain = not is_async(handler)
    plan = _Plan(place, given, takes_lists, plain, overrides or {})
    arguments = plan.of_handler(handler)
    steps = tuple(plan.steps)
    if not steps and arguments == Arguments((_EVENT, _DELIVERY), ()):
        return Wired(handler, plain)
    if not steps:
        return Wired(lambda *values: arguments.of(handler, values), plain)
    whole = with_dependencies(handler, arguments, steps, plain=plain)
    used = tuple(plan.used)
    if not plain:
        return Wired(whole, plain, used)
    return Wired(lambda event, delivery: carried_through(whole(event, delivery)), plain, used)


# ---------------------------------------------------------------------- who fills what


@dataclass(slots=True)
class _Plan:
    """What is made for one handler, in order, while its parameters are gone through."""

    place: str
    given: tuple[type[Any], type[Any]]
    takes_lists: bool
    plain: bool
    overrides: Overrides
    steps: list[Step] = field(default_factory=list)
    used: list[Callable[..., Any]] = field(default_factory=list)
    """The providers as they are written, also where another stands in."""
    _made: list[tuple[Callable[..., Any], int]] = field(default_factory=list)

    def of_handler(self, handler: Callable[..., Any]) -> Arguments:
        wanted = wanted_by(handler, self.place)
        positional = [one for one in wanted if one.positional]
        if not positional:
            raise ConfigError(f"{self.place} takes no event", hint=self._both())
        first, second = positional[0], positional[1] if positional[1:] else None
        self._check(first, _EVENT)
        sources: dict[str, int] = {first.name: _EVENT}
        for one in wanted:
            if one is first or (at := self._source(one, self.place, ())) is None:
                continue
            sources[one.name] = at
        if (
            second is not None
            and not second.optional
            and second.name not in sources
            and _DELIVERY not in sources.values()
        ):
            if not isinstance(second.said, Unread):
                self._check(second, _DELIVERY)
            # Else the type checker has read it.
            sources[second.name] = _DELIVERY
        elif (named := next((one for one in wanted if _is_named_so(one)), None)) is not None:
            sources.setdefault(named.name, _DELIVERY)
        return self._arguments(wanted, sources, self.place)

    def _check(self, one: Wanted, at: int) -> None:
        said = one.said
        if said in (None, Any, object) or isinstance(said, Unread) or self._takes(said, at):
            return
        hint = "" if at == _EVENT else "; a dependency is Annotated[..., Depends(...)]"
        raise ConfigError(
            f"{self.place}: {one.name} is annotated {shown(said)}, but is given {self._shown(at)}"
            + hint
        )

    def _source(
        self, one: Wanted, place: str, within: tuple[Callable[..., Any], ...]
    ) -> int | None:
        """Where the value of a parameter comes from; ``None``: its default, or nobody."""
        if one.bound:
            return None
        marks = [mark for mark in one.about if isinstance(mark, Depends)]
        for mark in (*one.about, one.default):
            foreign = type(mark).__name__ in ("Depends", "Dependant") and mark not in marks
            if isinstance(mark, Depends) and mark is one.default:
                raise ConfigError(
                    f"{place}: {one.name} has Depends as its default",
                    hint=f"write {one.name}: Annotated[..., Depends(...)]",
                )
            if foreign:
                raise ConfigError(
                    f"{place}: the Depends of {one.name} is {type(mark).__module__}'s",
                    hint="from seaway import Depends",
                )
        if len(marks) > 1:
            raise ConfigError(f"{place}: {one.name} has more than one Depends")
        if marks:
            return self._dependency(marks[0].provider, within)
        if isinstance(one.said, Unread):
            if one.optional and "Depends" in one.said.text:
                raise ConfigError(f"{place}: {_unread(one)}", hint=_MODULE)
            return None
        for at in (_EVENT, _DELIVERY):
            if one.said is not None and self._takes(one.said, at):
                return at
        return None

    def _dependency(
        self, written: Callable[..., Any], within: tuple[Callable[..., Any], ...]
    ) -> int:
        """Where its value will be, among all; a step for it, after those that it needs."""
        for known, made in self._made:
            if known == written:
                return made
        if written in within:
            circle = (*within[within.index(written) :], written)
            raise ConfigError(
                f"{self.place}: its dependencies go in a circle: "
                + " -> ".join(map(place_of, circle))
            )
        provider = _stand_in(written, self.overrides)
        place = f"dependency {place_of(provider)} of {self.place}"
        make, waits, opens = made_by(provider)
        if waits and self.plain:
            raise ConfigError(
                f"{place} is async, and the handler is plain",
                hint="write the one as def, or the other as async def",
            )
        wanted = wanted_by(provider, place)
        sources: dict[str, int] = {}
        for one in wanted:
            if (at := self._source(one, place, (*within, written))) is not None:
                sources[one.name] = at
        self.used.append(written)
        self.steps.append(Step(make, self._arguments(wanted, sources, place), waits, opens, place))
        found = len(self.steps) + 1
        self._made.append((written, found))
        return found

    def _arguments(
        self, wanted: Sequence[Wanted], sources: Mapping[str, int], place: str
    ) -> Arguments:
        positional: list[int] = []
        named: list[tuple[str, int]] = []
        in_line = True
        for one in wanted:
            if (at := sources.get(one.name)) is None:
                if not one.optional:
                    raise ConfigError(f"{place}: {self._unfilled(one)}", hint=self._ways(place))
                in_line = False
            elif one.positional and in_line:
                positional.append(at)
            else:
                named.append((one.name, at))
        return Arguments(tuple(positional), tuple(named))

    # ------------------------------------------------------------------ said

    def _unfilled(self, one: Wanted) -> str:
        if isinstance(one.said, Unread):
            return f"nobody fills {_unread(one)}"
        if one.said is None:
            return f"nobody fills {one.name}, which has no annotation"
        if self.takes_lists and typing.get_origin(one.said) is None and one.said in self.given:
            at = self.given.index(one.said)
            return f"{one.name} is annotated {shown(one.said)}, but there are {self._shown(at)}"
        return f"nobody fills {one.name}: {shown(one.said)}"

    def _ways(self, place: str) -> str:
        event, delivery = self._shown(_EVENT), self._shown(_DELIVERY)
        if place == self.place:
            return f"{self._both()}; others by Annotated[..., Depends(provider)], or a default"
        return f"it may ask for {event}, {delivery}, Annotated[..., Depends(provider)]"

    def _both(self) -> str:
        names = "(events: {}, deliveries: {})" if self.takes_lists else "(event: {}, delivery: {})"
        kind = "a batch handler" if self.takes_lists else "a handler"
        return f"{kind} takes {names.format(self._shown(_EVENT), self._shown(_DELIVERY))}"

    def _shown(self, at: int) -> str:
        name = self.given[at].__name__
        return f"list[{name}]" if self.takes_lists else name

    def _takes(self, said: Any, at: int) -> bool:
        return takes(said, self.given[at], lists=self.takes_lists)


_MODULE = "what an annotation names has to be in its module when the program runs"


def _is_named_so(one: Wanted) -> bool:
    return one.name == "delivery" and one.said is None and not one.bound


def _unread(one: Wanted) -> str:
    return f"{one.name}, whose annotation {one.said.text} cannot be read: {one.said.why}"


def _stand_in(written: Callable[..., Any], overrides: Overrides) -> Callable[..., Any]:
    return next((new for old, new in overrides.items() if old == written), written)


def takes(said: Any, given: type[Any], *, lists: bool = False) -> bool:
    """Whether a parameter that is annotated so may be given a ``given``, or a list of them."""
    origin = typing.get_origin(said)
    if origin in (typing.Union, types.UnionType):
        return any(takes(one, given, lists=lists) for one in typing.get_args(said))
    if lists:
        return origin in (list, Sequence) and takes_one(typing.get_args(said), given)
    return isinstance(said, type) and said is not object and issubclass(given, said)


def takes_one(said: tuple[Any, ...], given: type[Any]) -> bool:
    return len(said) == 1 and takes(said[0], given)
