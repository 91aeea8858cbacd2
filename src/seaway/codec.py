"""The JSON codec: from an event's instance to bytes and back.

Owns: the text form of an event, and what cannot have one. Pure; knows no subject and no transport.
Guarantees: what ``encode`` gives, ``decode`` reads back as the same: what would come back as
something else is refused by the writer, with its field's name, and so is a class that never could.
On the wire a field is called as its alias says, where it has one; it is read by alias and by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo

from seaway.errors import ConfigError, DecodeError

T = TypeVar("T")


class Codec(Generic[T]):
    """The codec of one class, a dataclass or a pydantic model. ``name``: what errors call it."""

    def __init__(self, cls: type[T], name: str) -> None:
        self.cls = cls
        self.name = name

    def refuse_one_way(self) -> None:
        """``ConfigError`` for a class of which no instance could be read back."""
        for model in _models(self.cls, set()):
            for field in _one_way(model):
                raise ConfigError(
                    f"{place(model)}: {field}, so no event that is written could be read",
                    hint="let it be read as it is written",
                )

    def check(self) -> None:
        """``ConfigError`` where a type that the class names is not known at run time."""
        _ = self._adapter

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        try:
            adapter = TypeAdapter(self.cls)
            if not adapter.pydantic_complete:
                adapter.rebuild(force=True)
        except PydanticUndefinedAnnotation as error:
            raise ConfigError(
                f"{place(self.cls)} names the type {error.name!r}, which is not known at run time",
                hint="import it outside `if TYPE_CHECKING:`",
            ) from error
        except PydanticUserError as error:
            raise ConfigError(f"{place(self.cls)} cannot be an event: {error.message}") from error
        return adapter

    def encode(self, event: T) -> bytes:
        """Compact JSON in UTF-8. ``ValueError`` names the field that does not hold what it
        declares, or holds what a reader would not see as it is."""
        adapter = self._adapter
        payload = adapter.serializer.to_json(event, by_alias=True, warnings="error")
        try:
            back = adapter.validator.validate_json(payload, by_alias=True, by_name=True)
        except ValidationError as error:
            field, said = first_problem(error)
            raise ValueError(f"{field or 'it'} is written, and cannot be read: {said}") from error
        if back != event and (field := _difference(event, back, "")):
            raise ValueError(field)
        return payload

    def decode(self, payload: bytes) -> T:
        """The instance, or ``DecodeError`` naming the first field that does not validate."""
        adapter = self._adapter
        try:
            return adapter.validator.validate_json(payload, by_alias=True, by_name=True)  # type: ignore[no-any-return]
        except ValidationError as error:
            field, said = first_problem(error)
            raise DecodeError(f"{self.name}: {field or 'payload'}: {said}", field=field) from error
        except ValueError as error:
            raise DecodeError(f"{self.name}: payload: {error}") from error


def compact(value: Any) -> bytes:
    """What JSON can hold, written as events are: compact, in UTF-8. ``ValueError`` or ``TypeError``
    for anything else."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def first_problem(error: ValidationError) -> tuple[str | None, str]:
    """The place of the first problem, and what it is, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return where or None, f"{first['msg']}{more}"


def place(cls: type[Any]) -> str:
    """``module.Class``, for messages."""
    return f"{cls.__module__}.{cls.__qualname__}"


# ------------------------------------------------------------------------ what comes back


def _difference(written: Any, read: Any, where: str) -> str:
    """The first place where ``read`` is not what was ``written``, in words; empty: the same.

    Lists and tuples are one thing in JSON, and a class need not compare by value.
    """
    if isinstance(written, float) and not math.isfinite(written):
        return f"{where or 'it'} is {written}, which JSON does not have"
    if isinstance(written, Mapping) and isinstance(read, Mapping):
        if written.keys() != read.keys():
            return f"{where or 'it'} would be read with other keys"
        return _first(
            _difference(value, read[key], f"{where}.{key}" if where else str(key))
            for key, value in written.items()
        )
    if isinstance(written, list | tuple) and isinstance(read, list | tuple):
        if len(written) != len(read):
            return f"{where or 'it'} would be read with another length"
        return _first(
            _difference(one, other, f"{where}.{index}" if where else str(index))
            for index, (one, other) in enumerate(zip(written, read, strict=True))
        )
    if type(written) is type(read) and (names := _compared(written)) is not None:
        return _first(
            _difference(getattr(written, name), getattr(read, name), f"{where}.{name}".lstrip("."))
            for name in names
        )
    if written == read:
        return ""
    return (
        f"{where or 'it'} is {_kind(written)} and would be read as {_kind(read)}: "
        "declare its type, or write what JSON can hold"
        if type(written) is not type(read)
        else f"{where or 'it'} would be read as another {_kind(written)}"
    )


def _compared(value: Any) -> list[str] | None:
    if isinstance(value, BaseModel):
        return list(type(value).model_fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value) if field.compare]
    return None


def _first(problems: Iterator[str]) -> str:
    return next((problem for problem in problems if problem), "")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


# --------------------------------------------------------------- what never could come back


def _models(cls: Any, seen: set[type[Any]]) -> Iterator[type[BaseModel]]:
    """``cls`` and the models that its fields name, however deep, as far as they are known now."""
    if isinstance(cls, type) and cls not in seen:
        seen.add(cls)
        if issubclass(cls, BaseModel):
            yield cls
            for info in cls.model_fields.values():
                yield from _models(info.annotation, seen)
        elif dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                yield from _models(field.type, seen)
    for argument in get_args(cls):
        yield from _models(argument, seen)


def _one_way(model: type[BaseModel]) -> Iterator[str]:
    forbids = model.model_config.get("extra") == "forbid"
    if forbids:
        for name in model.model_computed_fields:
            yield f"{name} is computed and written, and extra='forbid' refuses to read it"
    for name, info in model.model_fields.items():
        if info.exclude and info.is_required():
            yield f"{name} is required and excluded from what is written"
        written = info.serialization_alias
        if written is not None and written not in _read_as(name, info):
            if info.is_required():
                yield f"{name} is required and written as {written!r}, by which it is not read"
            elif forbids:
                yield f"{name} is written as {written!r}, which extra='forbid' refuses to read"


def _read_as(name: str, info: FieldInfo) -> set[str]:
    alias = info.validation_alias
    choices = getattr(alias, "choices", [alias])
    return {name, *(choice for choice in choices if isinstance(choice, str))}
