"""What is different between two payloads, by path. Pure.

    {"amount": "12,50"}  ──>  {"amount": 12.5, "currency": "EUR"}
        changed amount: string -> number      added currency: string

Owns: the difference of two JSON values, and its form without values, by which changes are grouped
and noted. Guarantees: a form holds no value of a payload: paths and kinds alone, and of a path no
part that does not look like a field's name; whatever is nested how deep, it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from seaway.contracts import Message

Path: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = Literal["payload", "header"]

_FIELD = re.compile(r"[A-Za-z_@$][\w.$@-]{0,63}", re.ASCII)
_NUMBERED = re.compile(r"\d{3}|^[^a-zA-Z_]|@.*@|\w@\w")
_MOST = 100_000
"""So many differences are told of one letter; a form of more says no more."""


class Absent:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "(nothing)"


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place that is not as it was. ``before`` and ``after``: JSON values, a header's text, the
    bytes of a payload that is no JSON, or ``ABSENT``."""

    place: Place
    path: Path
    before: Any
    after: Any

    @property
    def form(self) -> str:
        """What it is without its values: ``changed amount: string -> number``, ``added
        items[].tax: number``, ``removed header X-Tenant``."""
        name = _general(self.path) if self.place == "payload" else f"header {self.path[0]}"
        if self.before is ABSENT:
            return f"added {name}" + self._kinds(self.after)
        if self.after is ABSENT:
            return f"removed {name}"
        return f"changed {name}" + self._kinds(self.before, self.after)

    @property
    def name(self) -> str:
        """Where it is: ``items[2].tax``, ``header X-Tenant``, ``payload`` for the whole of it."""
        return shown_path(self.path) if self.place == "payload" else f"header {self.path[0]}"

    def _kinds(self, *values: Any) -> str:
        if self.place == "header":
            return ""
        kinds = dict.fromkeys(map(kind_of, values))
        return f": {' -> '.join(kinds)}"


def differences(before: Message, after: Message) -> list[Difference]:
    """Payload first, in its own order, then headers by name. Empty: nothing is different but the
    way in which JSON is written."""
    found = list(_of_payloads(before.payload, after.payload))
    for name in sorted(before.headers.keys() | after.headers.keys()):
        old, new = before.headers.get(name, ABSENT), after.headers.get(name, ABSENT)
        if old != new:
            found.append(Difference("header", (name,), old, new))
    return found


def form_of(found: Sequence[Difference]) -> tuple[str, ...]:
    """The form of all of them, each once, in alphabetical order."""
    return tuple(sorted({one.form for one in found}))


def _of_payloads(before: bytes, after: bytes) -> Iterator[Difference]:
    if before == after:
        return
    old, new = value_of(before), value_of(after)
    if isinstance(old, bytes) or isinstance(new, bytes):
        yield Difference("payload", (), old, new)
        return
    left: list[tuple[Path, Any, Any]] = [((), old, new)]
    count = 0
    while left and count < _MOST:
        path, old, new = left.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            names = [*old, *(name for name in new if name not in old)]
            pairs = [
                ((*path, name), old.get(name, ABSENT), new.get(name, ABSENT)) for name in names
            ]
            left += reversed(pairs)
        elif isinstance(old, list) and isinstance(new, list):
            longest = range(max(len(old), len(new)))
            left += reversed([((*path, at), _at(old, at), _at(new, at)) for at in longest])
        elif not _same(old, new):
            count += 1
            yield Difference("payload", path, old, new)


def value_of(payload: bytes) -> Any:
    """The JSON value of a payload, or the bytes themselves where it has none."""
    try:
        value = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return payload
    return value


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else ABSENT


def _same(old: Any, new: Any) -> bool:
    """In Python, true is 1 and 1 is 1.0."""
    if type(old) is not type(new):
        return False
    try:
        return bool(old == new) or (old != old and new != new)  # NaN is not itself.
    except RecursionError:
        return False


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    if isinstance(value, bool):
        return "boolean"
    kinds: Mapping[type[Any], str] = {
        str: "string",
        int: "number",
        float: "number",
        dict: "object",
        list: "array",
        type(None): "null",
        bytes: "bytes",
    }
    return kinds.get(type(value), "nothing")


def shown_path(path: Path) -> str:
    """``items[2].tax``; ``payload`` for the whole."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and re.fullmatch(r"[^\s.\[\]\"]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text or "payload"


def _general(path: Path) -> str:
    """The same of all places of a list, and of all keys that are no fields' names: ids and
    addresses are keys of some objects."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += "[]"
            continue
        name = part if _FIELD.fullmatch(part) and not _NUMBERED.search(part) else "*"
        text += f".{name}" if text else name
    return text or "payload"
