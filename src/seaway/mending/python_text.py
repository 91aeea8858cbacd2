"""JSON values, texts and bytes as Python source, whatever they hold. Pure.

Owns: how a value stands in a source file. Guarantees: the source means exactly that value, and
nothing of a value is code or ends a comment; nothing that does not print stands in it; a formatter
leaves it as it is, at any length of lines from ``WIDTH`` up: a container has an item a line, and a
text that is too long for its line goes on in the next one, by a backslash at the end.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

WIDTH = 88
"""As formatters have it where nobody says otherwise."""

_CHUNK = WIDTH - 16
_BACK = 24
"""How far a break is moved back to the last blank."""

Path: TypeAlias = tuple[str | int, ...]
"""Where in a JSON value: names and places."""

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NO_REMARKS: Mapping[Path, str] = {}


def argument(
    value: Any,
    *,
    indent: int,
    lead: str = "",
    remarks: Mapping[Path, str] = _NO_REMARKS,
    path: Path = (),
) -> Iterator[str]:
    """The lines of ``value`` as an argument or an item: behind ``lead``, up to its comma.

    ``value``: what JSON can hold, or bytes. ``remarks``: comments, by place in ``value``.
    """
    pad, remark = " " * indent, f"  # {remarks[path]}" if path in remarks else ""
    if isinstance(value, dict) and value:
        yield f"{pad}{lead}{{"
        for name, each in value.items():
            named, where = f"{quoted(name)}: ", (*path, name)
            yield from argument(each, indent=indent + 4, lead=named, remarks=remarks, path=where)
        yield f"{pad}}},{remark}"
    elif isinstance(value, list) and value:
        yield f"{pad}{lead}["
        for at, each in enumerate(value):
            yield from argument(each, indent=indent + 4, remarks=remarks, path=(*path, at))
        yield f"{pad}],{remark}"
    elif isinstance(value, str | bytes):
        line = f"{pad}{lead}{quoted(value)},{remark}"
        if len(line) <= WIDTH:
            yield line
            return
        first, *rest = _continued(value)
        yield f"{pad}{lead}{first}"
        yield from rest[:-1]
        yield f"{rest[-1]},{remark}"
    else:
        yield f"{pad}{lead}{value!r},{remark}"


def quoted(value: str | bytes) -> str:
    """A literal on one line, in the quotation marks that need the fewest escapes."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    quote = "'" if text.count('"') > text.count("'") else '"'
    return f"{'' if value is text else 'b'}{quote}{''.join(_pieces(value, quote))}{quote}"


def _pieces(value: str | bytes, quote: str) -> Iterator[str]:
    """What stands for each character, or byte."""
    if isinstance(value, str):
        for char in value:
            yield f"\\{quote}" if char == quote else _ESCAPES.get(char) or _printable(char)
        return
    for byte in value:
        char = chr(byte)
        shown = char if " " <= char <= "~" else f"\\x{byte:02x}"
        yield f"\\{quote}" if char == quote else _ESCAPES.get(char) or shown


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def _continued(value: str | bytes) -> Iterator[str]:
    """The same on several lines; the first of them begins it."""
    yield 'b"""\\' if isinstance(value, bytes) else '"""\\'
    line: list[str] = []
    for piece in _pieces(value, '"'):
        if len("".join(line)) + len(piece) > _CHUNK or (line and line[-1] == "\\n"):
            kept = _last_word(line)
            yield "".join(line[: len(line) - len(kept)]) + "\\"
            line = kept
        line.append(piece)
    yield "".join(line) + '"""'


def _last_word(line: list[str]) -> list[str]:
    """What goes on in the next line; nothing where the last word is a long one."""
    for back in range(1, min(_BACK, len(line))):
        if line[-back] in (" ", "\\n"):
            return line[len(line) - back + 1 :]
    return []


def docstring(paragraphs: Iterable[Sequence[str] | str], *, indent: int = 0) -> Iterator[str]:
    """A docstring of ``paragraphs``; a list is one whose lines are each set off as they are, folded
    where they are too long."""
    pad, lines = " " * indent, list[str]()
    for paragraph in paragraphs:
        lines += [""] if lines else []
        if isinstance(paragraph, str):
            lines += _folded(paragraph, pad)
        else:
            for line in paragraph:
                lines += _folded(line, f"{pad}    ")
    text = "\n".join(lines).replace('"""', "'''")
    yield f'{pad}{"r" if chr(92) in text else ""}"""{text.removeprefix(pad)}'
    yield f'{pad}"""'


def _folded(text: str, pad: str) -> list[str]:
    shown = "".join(map(_printable, " ".join(text.split())))
    return textwrap.wrap(
        shown,
        WIDTH - 1,
        initial_indent=pad,
        subsequent_indent=pad,
        break_long_words=False,
        break_on_hyphens=False,
    )
