"""A function of the user's that mends payloads: called, bounded in time, its result checked.

    def mend(payload, headers):                 # decoded JSON, or bytes where it is none
        if payload["currency"] not in RATES:
            raise Refuse("of this currency we know no rate")
        payload["amount"] = float(payload["amount"].replace(",", "."))
        return payload                          # or: return payload, headers

Owns: what such a function is given and may give (``Function``), and ``Transforming``, which is a
``runs.Transform`` over it. Guarantees: what it gives has the form of an event that the consumer
reads, or the letter stays and is told why; a call that does not end in time holds up no other; an
event's id, key and subject stay, and so does each byte of a payload that it does not change. What
is told of an error (``Stays.reason``) holds nothing of a payload; ``Stays.said`` may.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from seaway import headers as h
from seaway import logs
from seaway.consumer.callables import place_of, underlying, wanted_by
from seaway.contracts import Message
from seaway.dead_letters import Letter
from seaway.errors import ConfigError, DecodeError, InvalidName, Refuse, SeawayError
from seaway.events import event_type_of
from seaway.mending.bounded import Bounded, DoesNotEnd
from seaway.mending.checking import Check
from seaway.mending.differences import Difference, differences, form_of
from seaway.mending.runs import Refusal

Function: TypeAlias = Callable[[Any, Mapping[str, str]], Any]
"""``(payload, headers)`` to a new payload, or to a tuple of a payload and headers; plain or async.

``payload``: the decoded JSON; bytes where it is none, and always where the parameter is annotated
``bytes``. It may be changed in place, and is to be returned. ``headers``: the event's own, a copy.
What is returned: a value that JSON can hold, an instance of the event's class, or bytes, sent as
they are. It raises ``Refuse(reason)`` to leave a letter where it is, and gives the same for the
same letter.
"""

How: TypeAlias = Literal["refused", "raised", "hangs", "unusable", "invalid"]
"""``refused``: it said so; ``raised``: it failed; ``hangs``: it did not end in time; ``unusable``:
it gave what is no payload; ``invalid``: what it gave, the consumer could not read."""

WITHIN = timedelta(seconds=10)
_FIXED = (h.EVENT_ID, h.ORDERING_KEY, h.EVENT_PLACE, h.MENDED_FROM)
"""What a consumer knows an event by, what waits behind it, and where it came from."""
_NOT_GIVEN = ("nats-", h.DLQ_PREFIX.lower())


@dataclass(frozen=True, slots=True)
class Stays(Refusal):
    """Why a letter stays. ``said``: the error's own words, which may hold something of a payload,
    and are for whoever looks at the letters, not for a log."""

    how: How = "refused"
    said: str = ""


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of one letter's event: ``after`` is what would be sent, itself where nothing is
    different; ``None`` where the letter ``stays``."""

    letter: Letter
    before: Message | None
    """``None`` where it cannot be had: it has left its stream."""
    after: Message | None
    differences: tuple[Difference, ...] = ()
    stays: Refusal | None = None


class Transforming:
    """``runs.Transform`` over ``function``; ``async with`` it, which ends its thread.

    ``check``: raises ``DecodeError`` for what the consumer could not read (``checking``); ``None``:
    nobody looks. ``within``: how long a call may take. ``ConfigError`` for what cannot be called
    with a payload and headers.
    """

    def __init__(
        self,
        function: Function,
        *,
        check: Check | None,
        name: str | None = None,
        within: timedelta = WITHIN,
    ) -> None:
        self.place = f"transform {place_of(function)}"
        self.name = name or f"{getattr(function, '__module__', '')}:{_bare_name(function)}"
        self._raw = _takes_bytes(function, self.place)
        self._home = str(getattr(function, "__module__", ""))
        self._check = check
        self._calls = Bounded(function, within, name=self.name)
        self._told: dict[str, tuple[tuple[str, ...], str]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._calls.close()

    async def __call__(self, letter: Letter, event: Message) -> Message | Refusal:
        """See ``runs.Transform``. Never raises but for what is wrong with all letters."""
        found = await self.mend(letter, event)
        if found.after is None:
            assert found.stays is not None
            return found.stays
        if found.differences:
            was = letter.mended_from or f"sha256:{hashlib.sha256(event.payload).hexdigest()}"
            self._told[letter.id] = form_of(found.differences), was
        return found.after

    def told(self, letters: Sequence[str]) -> Mapping[str, Any]:
        """See ``runs.Telling``: which paths were changed in which letters, and the hash of what
        the event's own payload was."""
        alike: dict[tuple[str, ...], list[list[str]]] = {}
        for one in letters:
            if (known := self._told.pop(one, None)) is not None:
                form, was = known
                alike.setdefault(form, []).append([one, was])
        mended = [{"changes": list(form), "letters": some} for form, some in alike.items()]
        return {"mended": mended} if mended else {}

    async def mend(self, letter: Letter, event: Message) -> Mended:
        """The same, with what is different."""
        try:
            after = await self._changed(letter, event)
        except _Stay as stay:
            return Mended(letter, event, None, (), stay.why)
        found = tuple(differences(event, after))
        if not found:
            after = event  # Byte for byte: JSON can be written in many ways.
        try:
            if self._check is not None:
                self._check(letter, after)
        except DecodeError as error:
            return Mended(letter, event, None, found, Stays(str(error), "invalid"))
        return Mended(letter, event, after, found)

    async def _changed(self, letter: Letter, event: Message) -> Message:
        given = event.payload if self._raw else _decoded(event.payload)
        try:
            result = await self._calls(given, dict(event.headers))
        except Refuse as refusal:
            raise _Stay("refused", logs.first_line(refusal)) from refusal
        except DoesNotEnd as error:
            raise _Stay("hangs", str(error)) from error
        except Exception as error:
            file, line = logs.innermost(error, self._home)
            where = f" ({file}:{line})" if file else ""
            kind = type(error).__name__
            raise _Stay("raised", f"{kind}{where}", f"{kind}: {logs.first_line(error)}") from error
        payload, headers = result, event.headers
        if isinstance(result, tuple):
            if len(result) != 2 or not isinstance(result[1], Mapping):
                raise _Stay("unusable", "it gave a tuple that is not (payload, headers)")
            payload, headers = result
        text = isinstance(given, bytes) and isinstance(payload, str)
        return Message(
            event.subject, _encoded(letter, payload, no_text=text), _headers(event.headers, headers)
        )


class _Stay(SeawayError):
    def __init__(self, how: How, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.why = Stays(reason, how, said or reason)


def find_transform(target: str) -> Function:
    """The function that ``module:function`` names, looked for from the present folder too.
    ``ConfigError`` says what is wrong."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigError(
            f"{target!r} names no function", hint="module:function, like mends:to_numbers"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise _not_imported(module_name, error) from error
        raise ConfigError(
            f"module {module_name!r} is not found", hint="run from its folder, or install it"
        ) from error
    except Exception as error:
        raise _not_imported(module_name, error) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        there = "is not there" if found is None else f"is {type(found).__name__}"
        raise ConfigError(f"{target!r} {there}", hint="name a function of (payload, headers)")
    return found  # type: ignore[no-any-return]


def _not_imported(module: str, error: Exception) -> ConfigError:
    file, line = logs.innermost(error, module)
    if isinstance(error, SyntaxError):
        file, line = error.filename or "", error.lineno or 0
    said = f"{type(error).__name__}: {logs.first_line(error)}"
    return ConfigError(f"module {module!r} cannot be imported: {said}", where=f"{file}:{line}")


# ---------------------------------------------------------------------- what it is given


def _bare_name(function: Function) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _takes_bytes(function: Function, place: str) -> bool:
    """Whether it is given bytes always; ``ConfigError`` where it cannot be called."""
    code = underlying(function)
    if inspect.isclass(function) or inspect.isgeneratorfunction(code):
        raise ConfigError(f"{place} is no function that returns a payload")
    if inspect.isasyncgenfunction(code):
        raise ConfigError(f"{place} is no function that returns a payload")
    wanted = wanted_by(function, place)
    first = [one for one in wanted[:2] if one.positional]
    if len(first) != 2 or not all(one.optional or one.bound for one in wanted[2:]):
        names = ", ".join(one.name for one in wanted)
        raise ConfigError(f"{place} takes ({names})", hint="write it as (payload, headers)")
    return first[0].said is bytes


def _decoded(payload: bytes) -> Any:
    """The JSON of a payload; bytes where it has none. ``_Stay`` for one whose numbers Python would
    not write as they are: what the function does not touch must not change."""
    try:
        return exact_json(payload)
    except InexactNumber as error:
        raise _Stay("unusable", f"{error}: {_INEXACT}") from error
    except ValueError:
        return payload


class InexactNumber(ValueError):
    """The JSON has a number that a float does not hold exactly."""

    def __init__(self) -> None:
        super().__init__("its payload has a number that a float does not hold exactly")


def exact_json(payload: bytes) -> Any:
    """The JSON value of a payload, which written again is the same; ``ValueError`` where there is
    no such: ``InexactNumber``, NaN, half a surrogate pair, no JSON at all."""
    inexact: list[str] = []

    def number(text: str) -> float:
        found = float(text)
        try:
            if Decimal(text) != Decimal(repr(found)):
                inexact.append(text)
        except InvalidOperation:
            inexact.append(text)
        return found

    try:
        value = json.loads(payload.decode(), parse_float=number)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if inexact:
        raise InexactNumber
    return value


_INEXACT = "annotate the parameter as bytes, and it is given the payload as it is"

# ---------------------------------------------------------------------- what it gives


def _encoded(letter: Letter, payload: Any, *, no_text: bool) -> bytes:
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if payload is None:
        raise _Stay("unusable", "it gave nothing: return the payload, or raise Refuse")
    if no_text:
        raise _Stay("unusable", "it was given bytes and gave str: give bytes")
    if "__seaway_event__" in type(payload).__dict__:
        return _of_class(letter, payload)
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        # What the module says may name a value; what kind of thing it was, it says first.
        kind = type(payload).__name__
        raise _Stay(
            "unusable", f"it gave {kind} that is no JSON", logs.first_line(error)
        ) from error


def _of_class(letter: Letter, event: object) -> bytes:
    known = event_type_of(event)
    if str(known.subject) != letter.subject:
        raise _Stay("unusable", f"it gave an event of {known.subject}: the subject stays")
    try:
        return known.encode(event)
    except ValueError as error:
        raise _Stay(
            "unusable", f"it gave a {known.name} that cannot be read", str(error)
        ) from error


def _headers(before: Mapping[str, str], given: Mapping[Any, Any]) -> dict[str, str]:
    after: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise _Stay("unusable", f"it gave header {name!s:.80} that is no text")
        try:
            h.check_header(name, value)
        except InvalidName as error:
            raise _Stay("unusable", f"it gave a header that cannot be sent: {error}") from error
        if name.lower().startswith(_NOT_GIVEN) and name not in before:
            raise _Stay("unusable", f"it gave {name}, which is not the event's to have")
        after[name] = value
    for name in _FIXED:
        if name in before and after.setdefault(name, before[name]) != before[name]:
            raise _Stay("unusable", f"it changed {name}, which stays")
        if name in after and name not in before:
            raise _Stay("unusable", f"it gave {name}, which is not the event's to have")
    return after
