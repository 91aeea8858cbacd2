"""``seaway dlq edit``: one letter's payload in an editor, and back to the consumer that failed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import mending, options
from seaway.cli.printing import printable
from seaway.contracts import Message
from seaway.dead_letters import Letter
from seaway.errors import ConfigError, DecodeError, SeawayError
from seaway.mending import Mending

if TYPE_CHECKING:
    from seaway.app import Seaway
    from seaway.mending.checking import Check

_EDITORS = ("sensible-editor", "vim", "vi", "nano")


@session.runs
async def edit(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Letter id or event id.")],
    consumer: options.Consumer = None,
    application: mending.Application = None,
    no_check: mending.NoCheck = False,
    by: options.By = None,
    yes: session.Yes = False,
) -> None:
    """Change one letter's payload in $EDITOR, see what is different, and redrive it after a yes."""
    app = mending.application_of(ctx, application)
    async with options.opened(ctx) as queue:
        letter = await queue.get(letter_id, consumer=consumer)
        event = await queue.event(letter)
        text = _text(letter, event.payload)
        check = None if no_check else _check(app)
        with _kept_file(letter, text) as file:
            edited = await _edited(letter, event, text, file, check)
            if not yes:
                session.confirm(f"Redrive {letter.id} to {letter.consumer} with this payload?")
            await queue.redrive(letter, payload=edited.payload)
        await _note(queue, letter, event, edited, session.operator(by))
    printing.note(f"{letter.id} redriven: {letter.event_id} to {letter.consumer}.")


async def _note(queue: Mending, letter: Letter, was: Message, now: Message, by: str) -> None:
    """In the log, if the database is at hand: what was changed, and what it was, without values."""
    from seaway.mending.changes import note_changes
    from seaway.mending.differences import differences, form_of

    changes = list(form_of(differences(was, now)))
    hashed = letter.mended_from or f"sha256:{hashlib.sha256(was.payload).hexdigest()}"
    try:
        store = await queue.database()
        await note_changes(store, "edited", [letter], by=by, changes=changes, was=hashed)
    except SeawayError as error:
        printing.note(f"Not noted in the database: {printable(str(error))}")


@contextmanager
def _kept_file(letter: Letter, text: str) -> Iterator[Path]:
    """A file with ``text``; kept where something else was written into it, and then not sent."""
    folder = Path(tempfile.mkdtemp(prefix="seaway-"))  # Nobody else may read a payload.
    file = folder / f"{letter.id.replace(':', '-')}.json"
    file.write_text(text, encoding="utf-8")
    done = False
    try:
        yield file
        done = True
    finally:
        if done or not file.exists() or file.read_bytes() == text.encode():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            printing.note(f"{letter.id} stays. What you wrote is in {file}.")


def _text(letter: Letter, payload: bytes) -> str:
    """The payload as it is edited: JSON in lines where nothing of it would change by that."""
    from seaway.mending.transforming import exact_json

    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{letter.id}: its payload is not text", hint="redrive it with --payload FILE"
        ) from error
    with suppress(ValueError):
        return json.dumps(exact_json(payload), indent=2, ensure_ascii=False) + "\n"
    return text


def _payload(text: str) -> bytes:
    """What was written, as it is sent: JSON as short as it is; anything else as it stands."""
    from seaway.mending.transforming import exact_json

    body = text.encode()
    with suppress(ValueError):
        value = exact_json(body)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return body


async def _edited(
    letter: Letter, event: Message, text: str, file: Path, check: Check | None
) -> Message:
    """The event with what was written; asks again where the consumer could not read it."""
    from seaway.mending.differences import differences

    while True:
        await _open_editor(file)
        written = _read(file)
        if written == text:
            session.fail(f"nothing was changed: {letter.id} stays", 1)
        after = Message(event.subject, _payload(written), event.headers)
        found = differences(event, after)
        if not found:
            session.fail(f"nothing but blanks was changed: {letter.id} stays", 1)
        mending.print_differences(found, indent="")
        problem = _problem(letter, after, check)
        if not problem:
            return after
        printing.complain(problem)
        session.confirm("Edit it again?")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 any more") from error
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _check(app: Seaway | None) -> Check:
    from seaway.mending.checking import checked_by

    return checked_by(None if app is None else app.consumers)


def _problem(letter: Letter, after: Message, check: Check | None) -> str:
    """Why the consumer could not read it; empty where it can, or nobody can say, which is said."""
    from seaway.mending.checking import NothingToHoldAgainst

    try:
        if check is not None:
            check(letter, after)
    except NothingToHoldAgainst:
        printing.note(
            f"Not checked: nothing here knows {letter.subject}. --app module:app names the "
            "application that does."
        )
    except DecodeError as error:
        return str(error)
    return ""


async def _open_editor(file: Path) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        command = next((name for name in _EDITORS if shutil.which(name)), "")
    words = shlex.split(command) if command else []
    if not words:
        raise ConfigError("there is no editor", hint="set EDITOR")
    try:
        # Not waited for by blocking: the connection to the server is to live meanwhile.
        editor = await asyncio.create_subprocess_exec(*words, str(file))
    except OSError as error:
        raise ConfigError(f"the editor {command!r} cannot be run: {error.strerror}") from error
    if code := await editor.wait():
        raise ConfigError(f"the editor {command!r} ended with {code}: nothing is sent")
