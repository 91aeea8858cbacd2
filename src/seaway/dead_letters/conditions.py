"""Conditions on what an event holds: ``payload.amount>100``. Pure.

    condition = what operator value
    what      = payload [.field | .number | ."any text"]...   |   headers.name
    operator  = =  !=  <  <=  >  >=  ~

A value that is JSON (``7``, ``true``, ``null``, ``"7"``, ``["a"]``) is that value, anything else is
a text. Guarantees: a payload that is no JSON, a field that is not there and two values that cannot
be compared fit no condition, ``!=`` neither; a number loses no digit; a text that is a number is
compared with numbers as one, as amounts often are; ``~`` looks for a text in whatever it is, and
does not mind capitals.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from seaway.errors import ConfigError

_CONDITION = re.compile(
    r"""\s*(payload|headers)((?:\.(?:"(?:[^"\\]|\\.)*"|[^\s."=!<>~]+))*)"""
    r"""\s*(==|!=|<=|>=|=|<|>|~)\s*(.*?)\s*""",
    re.DOTALL,
)
_FIELD = re.compile(r"""\.("(?:[^"\\]|\\.)*"|[^\s."=!<>~]+)""")
_HINT = (
    "like payload.amount>100, payload.lines.0.sku=A-7 or headers.x-tenant~shop; "
    "operators: = != < <= > >= ~ (contains)"
)
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MISSING = object()
NO_DOCUMENT = object()
"""What a payload that is no JSON has in place of a value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, as somebody wrote it."""

    of_payload: bool
    path: tuple[str, ...]
    compare: str
    text: str
    value: Any
    """``text`` as JSON, where it is that."""

    def holds(self, headers: Mapping[str, str], document: Any) -> bool:
        """Whether it is so for an event with these headers and this ``document``."""
        found = _at(document, self.path) if self.of_payload else _header(headers, self.path[0])
        if found is _MISSING:
            return False
        if self.compare == "~":
            return self.text.casefold() in _told(found).casefold()
        if self.compare in ("=", "!="):
            return self._same(found) == (self.compare == "=")
        left, right = _comparable(found, self.value, self.text)
        try:
            return left is not None and _ORDERS[self.compare](left, right)
        except InvalidOperation:
            return False

    def _same(self, found: Any) -> bool:
        if isinstance(found, str):
            left, right = _comparable(found, self.value, self.text)
            return found == self.text or found == self.value or (left is not None and left == right)
        if isinstance(found, bool) or isinstance(self.value, bool):
            return found is self.value
        return bool(found == self.value)


@lru_cache(maxsize=64)
def condition(text: str) -> Condition:
    """The condition that ``text`` says; ``ConfigError`` where it says none."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no condition", hint=_HINT)
    of, fields, compare, value = match.groups()
    try:
        path = tuple(
            json.loads(name) if name.startswith('"') else name for name in _FIELD.findall(fields)
        )
    except ValueError as error:
        raise ConfigError(f"{text!r} is no condition: {error}", hint=_HINT) from error
    if of == "headers":
        if not path:
            raise ConfigError(f"{text!r} does not say which header", hint=_HINT)
        path = (".".join(path),)
    if not value:
        raise ConfigError(f"{text!r} does not say what to compare with", hint=_HINT)
    try:
        said = json.loads(value, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError):
        said = value
    if compare == "~" and isinstance(said, str):
        value = said
    return Condition(of == "payload", path, "=" if compare == "==" else compare, value, said)


def document_of(payload: bytes) -> Any:
    """A payload's JSON value; ``NO_DOCUMENT`` where it has none."""
    try:
        return json.loads(payload, parse_float=Decimal)
    except (ValueError, RecursionError):
        return NO_DOCUMENT


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _at(document: Any, path: tuple[str, ...]) -> Any:
    found = _MISSING if document is NO_DOCUMENT else document
    for name in path:
        if isinstance(found, dict):
            found = found.get(name, _MISSING)
        elif isinstance(found, list) and name.isascii() and name.isdecimal():
            place = int(name[:9])
            found = found[place] if place < len(found) else _MISSING
        else:
            return _MISSING
    return found


def _header(headers: Mapping[str, str], name: str) -> Any:
    for key, value in headers.items():
        if key.lower() == name.lower():
            return value
    return _MISSING


def _told(found: Any) -> str:
    """A value as one searches in it."""
    if isinstance(found, str):
        return found
    return json.dumps(found, ensure_ascii=False, default=str)


def _comparable(found: Any, value: Any, text: str) -> tuple[Any, Any]:
    """Both as values of one kind; ``(None, None)`` where they are of two."""
    if _is_number(value):
        number = _number(found)
        return (None, None) if number is None else (number, value)
    if isinstance(found, str) and not isinstance(value, bool | None):
        return found, value if isinstance(value, str) else text
    return None, None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _number(found: Any) -> Any:
    if isinstance(found, str):
        return Decimal(found) if _NUMBER.fullmatch(found) else None
    return found if _is_number(found) else None
