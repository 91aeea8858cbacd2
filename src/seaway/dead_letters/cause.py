"""Why a letter is there: which error, where in the user's own code, at which event. Pure.

The place is read out of the stack that the letter holds. That was written by another process, on
another machine: what was installed there is told by its path. Where all of it was, the package of
the handler is the user's, with which the stack begins.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

from seaway.dead_letters.letter import Letter

_FRAME = re.compile(r'^[ |]*File "([^"\n]+)", line (\d+), in (.+)$', re.MULTILINE)
_LINK = re.compile(
    r"^[ |]*(?:The above exception was the direct cause of the following exception|"
    r"During handling of the above exception, another exception occurred):$",
    re.MULTILINE,
)
_MEMBERS = re.compile(r"^ *\+-\+-+ 1 -+$", re.MULTILINE)
"""Where the members of a group of errors begin."""
_STANDARD = re.compile(r"^<|[/\\]lib[/\\]python[0-9.]+[/\\](?!site-packages|dist-packages)")
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]([^/\\.]+)")
_BEGINNING = "Traceback (most recent call last):"
_SHOWN_PARTS = 2

Frame: TypeAlias = tuple[str, str, str]
"""File, line, function."""


@dataclass(frozen=True, slots=True, order=True)
class Cause:
    """What letters have in common that one mending helps all of."""

    error: str
    """The exception's class. Of a letter without one: its reason. Of one that cannot be read: why
    not."""
    place: str
    """``/app/cases/handlers.py:41 in open_case``; empty where no stack says it."""
    subject: str
    """The event's: its type and version."""

    @property
    def id(self) -> str:
        """What people call it: eight hexadecimal digits, the same for the same cause."""
        said = "\0".join((self.error, self.place, self.subject))
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:8]

    @property
    def where(self) -> str:
        """The place without the folders that it lies in: ``cases/handlers.py:41 in open_case``."""
        file, separator, rest = self.place.rpartition(":")
        return "/".join(PurePosixPath(file).parts[-_SHOWN_PARTS:]) + separator + rest


def cause_of(letter: Letter) -> Cause:
    """The cause of one letter. Never fails."""
    if letter.problem:
        return Cause(letter.problem, "", letter.subject if letter.foreign else "")
    return Cause(letter.error_type or letter.reason, place_of(letter.stack), letter.subject)


def place_of(stack: str) -> str:
    """Where in the user's own code an error came from, by its stack: of itself, else of what it
    came from, the innermost frame; where none is the user's, the innermost of all. Empty where
    there is none."""
    parts = list(_parts(stack))
    found = _innermost(parts, lambda file: not _is_installed(file))
    if found is None and parts and (home := _home(*parts[0])):
        found = _innermost(parts, lambda file: _package(file) == home)
    return _told(found or _innermost(parts, lambda file: True) or ("", "", ""))


def _parts(stack: str) -> Iterator[tuple[str, Sequence[Frame]]]:
    """The frames of the error itself, then those of what it is a group of or came from."""
    for said in reversed(_LINK.split(stack)):
        own, *members = _MEMBERS.split(said, maxsplit=1)
        for part in (own, *members):
            yield part, [(file, line, name) for file, line, name in _FRAME.findall(part)]


def _innermost(
    parts: Sequence[tuple[str, Sequence[Frame]]], wanted: Callable[[str], bool]
) -> Frame | None:
    for _, frames in parts:
        for frame in reversed(frames):
            if wanted(frame[0]):
                return frame
    return None


def _home(said: str, frames: Sequence[Frame]) -> str:
    """The installed package of the handler, whose frame comes first; empty where that was cut
    off."""
    files = [file for file, _, _ in frames] if _BEGINNING in said else []
    return next(filter(None, map(_package, files)), "")


def _is_installed(file: str) -> bool:
    return bool(_STANDARD.search(file) or _package(file))


def _package(file: str) -> str:
    """The installed package that a file belongs to; empty for none."""
    found = _INSTALLED.search(file)
    return found[1] if found else ""


def _told(frame: Frame) -> str:
    file, line, name = frame
    return f"{file}:{line} in {name}" if file else ""
