"""What must not be told of a payload, replaced by something of its kind. Pure.

    {"name": "Jane Doe", "items": [{"iban": "CH93 0076"}]}   name, items.*.iban
    {"name": "Aaaa Aaa", "items": [{"iban": "AA11 1111"}]}

Letters and digits give way, what stands between them stays: so a text keeps its form, and what
reads it fails as before. Where the event's class does not take that, a text in one of the usual
forms is tried, then what the class says that there may be.

Owns: which places a field names, and what takes the place of a value. Guarantees: another value of
the same JSON type, but for null, true and false, and what is empty; the first thing that the
event's class has to say of the payload is the same before and after.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from seaway.codec import compact
from seaway.errors import ConfigError
from seaway.mending.python_text import Path

Check: TypeAlias = Callable[[bytes], str | None]
"""What a payload's event class says of it: the field that is wrong first; ``None`` for nothing."""

_FORMS = (
    "redacted",
    "2000-01-01",
    "2000-01-01T00:00:00Z",
    "00:00:00",
    "PT1S",
    "00000000-0000-4000-8000-000000000000",
    "00000000-0000-7000-8000-000000000000",
    "redacted@example.org",
    "https://example.org/",
    "192.0.2.1",
    "1",
)
_TIME = re.compile(r"[0-9-]+[T ][0-9:.]+(Z|[+-][0-9:]+)?")
_NUMBERS = (0, 1, 2, 5, 10, 100)
_TELLING = 4
"""A text of at least so many characters is looked for elsewhere too; shorter ones are anywhere."""
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Redacted:
    """A JSON value without what was to be hidden."""

    value: Any
    places: Sequence[Path] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    """What stood there, and what stands for it now."""
    numbers: Collection[str] = ()
    """Those of ``texts`` that are numbers: within a longer one they mean something else."""
    missing: Sequence[str] = ()
    """The fields that are not in it."""

    def hide(self, text: str) -> str:
        """``text``, somebody else's, without the values that were hidden, where it repeats them."""
        if text in self.texts:
            return self.texts[text]
        for old in sorted(self.texts, key=len, reverse=True):
            if len(old) >= _TELLING:
                whole = rf"(?<![\w.-])(?<!\d:){re.escape(old)}(?![\w-]|[.:]\d)"
                found = whole if old in self.numbers else re.escape(old)
                text = re.sub(found, lambda _, old=old: self.texts[old], text)  # type: ignore[misc]
        return text


def redact(
    value: Any, fields: Sequence[str], *, check: Check = lambda payload: None, among: Sequence[Any]
) -> Redacted:
    """``value`` with others in the places that ``fields`` name: dotted paths, ``*`` for every item
    of a list and every member of an object. Of an object or a list, all that is in it.

    ``among``: values that the event's class may ask for. ``ConfigError`` where it takes no other
    there.
    """
    wrong, made = check(compact(value)), copy.deepcopy(value)
    texts: dict[str, str] = {}
    numbers: set[str] = set()
    places: dict[Path, None] = {}
    missing: list[str] = []
    for name in fields:
        paths = list(_matching(value, _parts(name)))
        missing += [] if paths else [name]
        found = [leaf for path in paths for leaf in _leaves(value, path)]
        new = [path for path in found if path not in places]
        places.update(dict.fromkeys(found))
        for path in new:
            _put(made, path, next(_instead(_at(value, path), among)))
        if check(compact(made)) != wrong:
            for path in new:
                _put(made, path, _at(value, path))
            for path in new:
                _replace(made, path, name, _instead(_at(value, path), among), check, wrong)
        for path in new:
            told = _texts(_at(value, path), _at(made, path))
            texts |= told
            numbers.update(told if not isinstance(_at(value, path), str) else ())
    return Redacted(made, tuple(places), texts, numbers, tuple(missing))


def _replace(
    made: Any, path: Path, name: str, instead: Iterator[Any], check: Check, wrong: str | None
) -> None:
    for one in instead:
        _put(made, path, one)
        if check(compact(made)) == wrong:
            return
    raise ConfigError(
        f"--redact {name!r}: the event's class takes nothing else there that is known here",
        hint="leave that field out, and write another value into the test by hand",
    )


# ----------------------------------------------------------------------------- which places


def _parts(name: str) -> list[str]:
    dotted = re.sub(r"\[(\*|\d*)\]", lambda found: f".{found[1] or '*'}", name)
    return [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", dotted.lstrip("."))]


def _matching(value: Any, parts: Sequence[str], path: Path = ()) -> Iterator[Path]:
    if not parts:
        yield path
        return
    part, rest = parts[0], parts[1:]
    for name, each in _members(value):
        if part in ("*", str(name)):
            yield from _matching(each, rest, (*path, name))


def _members(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    """The places below ``path`` that hold no others."""
    found = _at(value, path)
    if not isinstance(found, dict | list):
        yield path
    for name, _ in _members(found):
        yield from _leaves(value, (*path, name))


def named(value: Any) -> str:
    """The fields that there are, for an error."""
    names = dict.fromkeys(
        ".".join("*" if isinstance(part, int) else part.replace(".", "\\.") for part in path)
        for path in _leaves(value, ())
    )
    shown = list(names)[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more if any(shown) else "none"


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _put(value: Any, path: Path, new: Any) -> None:
    _at(value, path[:-1])[path[-1]] = new


# ----------------------------------------------------------------------------- by what


def _instead(old: Any, among: Sequence[Any]) -> Iterator[Any]:
    """What may take the place of ``old``, the best first."""
    if old is None or old == "":
        yield old
    elif isinstance(old, bool):
        yield from (False, True)
    elif isinstance(old, str):
        others = (one for one in among if isinstance(one, str))
        yield from (one for one in (_masked(old), *_FORMS, *others) if one != old)
    else:
        kind = type(old)
        others = (one for one in among if type(one) in (int, kind))
        masked = json.loads(re.sub(r"\d", "1", str(old))) if "e" not in str(old) else 1.5
        yield from (kind(one) for one in (masked, *_NUMBERS, *others) if one != old)


def _masked(text: str) -> str:
    if _TIME.fullmatch(text):
        return re.sub(r"\d", "1", text)
    return "".join(
        "1" if char.isdigit() else ("A" if char.isupper() else "a") if char.isalpha() else char
        for char in text
    )


def _texts(old: Any, new: Any) -> dict[str, str]:
    """As which texts ``old`` may stand elsewhere, and ``new`` for it."""
    if old is None or isinstance(old, bool) or old in ("", new):
        return {}
    if not isinstance(old, str):
        return {str(old): str(new)}
    forms: Sequence[Callable[[str], str]] = (
        str,
        lambda text: repr(text)[1:-1],
        lambda text: json.dumps(text)[1:-1],
    )
    return {form(old): form(new) for form in forms}
