"""A dead letter as a test: what a person would write to have its failure again at will. Pure.

    letter, its event, what is known of both ──> the source of a pytest on ``seaway.testing``

Owns: the form of that file. Guarantees: whatever subject, key, headers, payload and error a letter
brings, the file is Python that does what is said here and nothing else; it needs Seaway and the
application alone; formatters and strict type checkers have nothing to say of it.

A payload that Seaway wrote stands there as Python values; any other as its bytes; a long one is
packed.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from seaway import headers as h
from seaway.codec import compact
from seaway.contracts import Message
from seaway.dead_letters import Letter
from seaway.errors import ConfigError
from seaway.mending.python_text import WIDTH, Path, argument, docstring, quoted
from seaway.mending.redacting import Redacted
from seaway.naming import events_stream, stream_context

Runs: TypeAlias = Literal["seaway_database", "seaway_postgres_url", "django"]
"""What gives the test its database: a fixture of ``seaway.testing.plugin``, or Django's
``TestCase``."""

PACKED_BYTES = 8 * 1024
"""Payloads above this are not for reading."""
_DEEP = 40
"""How deep a payload may be nested that stands there as values: Python's parser has bounds."""
_OURS = frozenset({"asyncio", "base64", "zlib", "rehearsal", "CONSUMER", "PACKED"})
"""Names that the file has a meaning for."""
_KEPT = frozenset({h.CONTENT_TYPE, h.EVENT_VERSION, h.OCCURRED_AT})
"""Headers of a form of their own: what is hidden is none of theirs."""
_PACKING = ("import base64", "import zlib")
_LINE = WIDTH - 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A delivery that the test makes."""

    letter: Letter
    event: Message
    redacted: Redacted | None = None
    """The payload's value, where some of it is to be hidden."""
    said: str = ""
    """A comment."""

    @property
    def payload(self) -> Any:
        """A JSON value where the payload is that, as Seaway writes it; else its bytes."""
        if self.redacted is not None:
            return self.redacted.value
        found, payload = json_of(self.event.payload), self.event.payload
        return payload if found is None or compact(found.only) != payload else found.only

    @property
    def headers(self) -> dict[str, str]:
        """Those that the event had on its stream, as far as the letter has them."""
        headers = dict(self.event.headers)
        headers.setdefault(h.EVENT_ID, self.letter.event_id)
        if self.redriven:
            return headers
        own = headers.pop(h.EVENT_ID)
        foreign = own == f"{self.letter.stream}:{self.letter.stream_seq}"
        return {h.EVENT_ID if foreign else h.MSG_ID: own, **headers}

    @property
    def redriven(self) -> bool:
        """Whether it was given to its consumer as a redrive."""
        return self.letter.stream != events_stream(stream_context(self.letter.stored.stream))


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterTest:
    """A letter's test: ``source`` is the file, and ``notes`` what is not in it, in sentences."""

    source: str
    notes: Sequence[str] = field(default=())

    def __str__(self) -> str:
        return self.source


def written(
    letter: Letter,
    given: Sequence[Given],
    *,
    app: str,
    runs: Runs,
    place: str = "",
    state: Sequence[str] = (),
) -> str:
    """The source of a test that makes these deliveries, the last of which is ``letter``'s.

    ``app``: ``MODULE:NAME``. ``place``: where in the user's code the error came from. ``state``:
    sentences about what else is known. ``ConfigError`` for an ``app`` that no statement can import.
    """
    large = [at for at, one in enumerate(given) if len(one.event.payload) > PACKED_BYTES]
    packed = {at: "PACKED" if len(large) == 1 else f"PACKED_{at + 1}" for at in large}
    constants = [f"CONSUMER = {quoted(letter.consumer)}"]
    for at, name in packed.items():
        constants += [f'{name} = """', *_packed(given[at].payload), '"""']
    frame = _of_django if runs == "django" else _of_pytest
    imports, body, call = frame(letter.stored.stream_seq, *_imported(app), runs, bool(large))
    for at, one in enumerate(given):
        body += _delivered(one, packed.get(at, ""), call)
    told = docstring(_told(letter, given, place, state, bool(large), runs))
    return "\n".join((*told, "", *imports, "", *constants, "", "", *body, ""))


def _of_pytest(
    number: int, module: str, name: str, database: Runs, packs: bool
) -> tuple[list[str], list[str], Sequence[str]]:
    """Imports, what stands before the deliveries, and how one begins."""
    alias = " as app" if name in _OURS else ""
    imports = [
        "import asyncio",
        *(_PACKING if packs else ()),
        "",
        "from seaway.testing.rehearsal import rehearsal",
        "",
        f"from {module} import {name}{alias}",
    ]
    called = "app" if alias else name
    body = [
        f"def test_letter_{number}({database}: str) -> None:",
        f"    asyncio.run(letter_{number}({database}))",
        *("", ""),
        f"async def letter_{number}(database: str) -> None:",
        f"    async with rehearsal({called}, database, consumers=[CONSUMER]) as stage:",
    ]
    return imports, body, ("await stage.deliver(", "CONSUMER,")


def _of_django(
    number: int, module: str, name: str, _: Runs, packs: bool
) -> tuple[list[str], list[str], Sequence[str]]:
    imports = [
        *((*_PACKING, "") if packs else ()),
        "from django.test import TestCase",
        f"from {module} import {name}",
        "from seaway.django.testing import redeliver",
    ]
    body = [f"class Letter{number}(TestCase):", f"    def test_letter_{number}(self) -> None:"]
    return imports, body, ("redeliver(", f"{name}.consumers[CONSUMER],")


def _imported(app: str) -> tuple[str, str]:
    module, _, name = app.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ConfigError(
            f"{app!r} cannot be imported by a statement", hint="module:app, like shop.events:app"
        )
    return module, name


# ------------------------------------------------------------------------------- in words


def _told(
    letter: Letter,
    given: Sequence[Given],
    place: str,
    state: Sequence[str],
    packed: bool,
    runs: Runs,
) -> list[Sequence[str] | str]:
    """What the test is of."""
    paragraphs: list[Sequence[str] | str] = [f"The dead letter {letter.id}, as a test."]
    when = f"{letter.failed_at:%Y-%m-%d %H:%M:%S} UTC"
    tries = f"delivery {letter.deliveries}" if letter.deliveries else "a delivery"
    what = f"{letter.consumer} gave up on {letter.subject} at {tries}, {when} ({letter.reason})"
    if letter.waits:
        what = f"{letter.consumer} has {letter.subject} wait since {when}"
        paragraphs.append(f"{what}: an earlier event of its key failed.")
    elif letter.error_type or letter.error:
        error = ": ".join(part for part in (letter.error_type, letter.error) if part)
        paragraphs += [f"{what}:", [hide(given, error), *([place] if place else [])]]
    else:
        paragraphs.append(f"{what}; its letter has no error.")
    if state:
        paragraphs.append(" ".join(state))
    if any(one.redacted and one.redacted.places for one in given):
        paragraphs.append("Redacted: " + ", ".join(_fields(given)) + ".")
    if packed:
        paragraphs.append("A payload is packed: `seaway dlq show` prints it.")
    end = "It fails as the letter did, and passes once the handler is right."
    if runs != "django":
        end += f" The application's own tables are for a fixture {runs} in conftest.py to make."
    paragraphs.append(end)
    return paragraphs


def hide(given: Sequence[Given], text: str) -> str:
    """``text``, of one of these letters, without what is hidden in any of them."""
    for one in given:
        if one.redacted is not None:
            text = one.redacted.hide(text)
    return text


def _fields(given: Sequence[Given]) -> list[str]:
    paths = [path for one in given if one.redacted is not None for path in one.redacted.places]
    return list(dict.fromkeys(_shown(path) for path in paths))


def _shown(path: Path) -> str:
    return ".".join("*" if isinstance(part, int) else part for part in path)


# ------------------------------------------------------------------------------- in code


def _delivered(one: Given, packed: str, call: Sequence[str]) -> list[str]:
    """A delivery, in a block that begins with 8 blanks."""
    hidden = one.redacted or Redacted(None)
    headers = {
        name: text if name in _KEPT else hidden.hide(text) for name, text in one.headers.items()
    }
    changed: dict[Path, str] = {
        (name,): "redacted" for name in headers if headers[name] != one.headers[name]
    }
    lines = [f"        # {one.said}"] if one.said else []
    lines += [f"        {call[0]}", f"            {call[1]}"]
    lines += argument(one.event.subject, indent=12)
    if packed:
        lines.append(f"            zlib.decompress(base64.b64decode({packed})),")
    else:
        remarks = dict.fromkeys(hidden.places, "redacted")
        lines += argument(one.payload, indent=12, remarks=remarks)
    lines += argument(headers, indent=12, lead="headers=", remarks=changed)
    if one.letter.deliveries > 1:
        lines.append(f"            deliveries={one.letter.deliveries},")
    if one.redriven:
        lines.append("            redriven=True,")
    return [*lines, "        )"]


def _packed(payload: Any) -> list[str]:
    body = payload if isinstance(payload, bytes) else compact(payload)
    text = base64.b64encode(zlib.compress(body, 9)).decode()
    return [text[at : at + _LINE] for at in range(0, len(text), _LINE)]


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value; null is one as well."""

    only: Any


def json_of(payload: bytes) -> Value | None:
    """The JSON value of a payload; ``None`` where it has none, or one that cannot stand in a source
    file: nested too deep, not finite, half a surrogate pair."""
    try:
        value = json.loads(payload.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return Value(value) if _shallow(value, _DEEP) else None


def _shallow(value: Any, left: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    members = value.values() if isinstance(value, dict) else value
    return left > 0 and all(_shallow(one, left - 1) for one in members)
