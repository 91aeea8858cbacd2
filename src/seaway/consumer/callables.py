"""Whatever can be called: its name and place, whether it is plain, and its parameters.

Owns: how functions, methods, ``functools.partial``, objects with ``__call__`` and classes are read.
Knows nothing of events. Guarantees: an annotation that only a type checker can read is no error
here, and is not forgotten either: whoever needs it says what could not be read.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter
from typing import Annotated, Any, TypeVar

from seaway.errors import ConfigError

T = TypeVar("T")

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Unread:
    """An annotation that names what is not there when the program runs, and why."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A parameter: ``said`` is its annotation, ``None`` without one, ``about`` what ``Annotated``
    says besides; ``default``: ``Parameter.empty`` without one."""

    name: str
    positional: bool
    said: Any
    about: tuple[Any, ...] = ()
    default: Any = Parameter.empty
    bound: bool = False
    """Whether a ``partial`` gives it."""

    @property
    def optional(self) -> bool:
        return self.default is not Parameter.empty


def underlying(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function that is called in the end: a ``partial``'s, or an object's ``__call__``."""
    while isinstance(call, partial):
        call = call.func
    if inspect.isclass(call) or inspect.isroutine(call):
        return call
    found: Callable[..., Any] = getattr(call, "__call__", call)  # noqa: B004
    # What a decorator in C has made, such as lru_cache, says more itself.
    return found if inspect.isroutine(found) and hasattr(found, "__code__") else call


def name_of(call: Callable[..., Any]) -> str:
    """As it is called in a log: an object by its class."""
    found = call
    while isinstance(found, partial):
        found = found.func
    return str(getattr(found, "__qualname__", type(found).__qualname__))


def place_of(call: Callable[..., Any]) -> str:
    """Its name, and where it is written."""
    code = getattr(inspect.unwrap(underlying(call)), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{name_of(call)}{where}"


def is_async(call: Callable[..., Any]) -> bool:
    """Whether a call of it is to be awaited, as it says itself."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(underlying(call))


def wanted_by(call: Callable[..., Any], what: str) -> list[Wanted]:
    """The parameters that a call of it may give, without ``*`` and ``**``; ``ConfigError`` where
    they cannot be told. ``what``: how an error names it."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what}: its parameters cannot be read ({error})", hint="wrap it in a function"
        ) from error
    bound: set[str] = set()
    found = call
    while isinstance(found, partial):
        bound |= set(found.keywords)
        found = found.func
    hints = _hints(inspect.unwrap(found.__init__ if inspect.isclass(found) else underlying(found)))
    return [
        _wanted(parameter, hints, bound)
        for parameter in signature.parameters.values()
        if parameter.kind not in _COLLECTING
    ]


def _wanted(parameter: Parameter, hints: Mapping[str, Any], bound: set[str]) -> Wanted:
    said, about = hints.get(parameter.name), ()
    if typing.get_origin(said) is Annotated:
        said, *rest = typing.get_args(said)
        about = tuple(rest)
    return Wanted(
        parameter.name,
        parameter.kind in POSITIONAL,
        said,
        about,
        parameter.default,
        parameter.name in bound,
    )


def _hints(function: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        # Names that exist only for the type checker. One by one: the others count.
        names = getattr(function, "__globals__", {})
        annotations = getattr(function, "__annotations__", {})
        return {name: _hint(said, names) for name, said in annotations.items()}


def _hint(said: Any, names: dict[str, Any]) -> Any:
    one = types.SimpleNamespace(__annotations__={"it": said})
    try:
        return typing.get_type_hints(one, globalns=names, include_extras=True)["it"]
    except Exception as error:
        return Unread(str(said), str(error))


def shown(said: Any) -> str:
    """An annotation as somebody would write it."""
    return str(said) if typing.get_origin(said) else str(getattr(said, "__name__", said))
