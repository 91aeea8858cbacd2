"""What ``seaway dlq redrive`` does with a transform: previews, trials, and how they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.printing import print_json, printable, progress, say
from seaway.dead_letters import Letter
from seaway.dead_letters.redriving import Target
from seaway.errors import ConfigError
from seaway.mending import Mending
from seaway.words import counted

if TYPE_CHECKING:
    from seaway.app import Seaway
    from seaway.mending.differences import Difference
    from seaway.mending.previewing import Alike, Becomes, Preview
    from seaway.mending.transforming import Transforming
    from seaway.mending.trying import ComesTo, Outcomes, SameOutcome

TransformOption = Annotated[
    str | None,
    typer.Option(
        "--transform",
        metavar="MODULE:FUNCTION",
        help="Change payloads by this function of (payload, headers); it may refuse.",
    ),
]
Application = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:APP",
        help="The application whose handlers read the events, and with --try handle them.",
    ),
]
PreviewOption = Annotated[
    bool, typer.Option("--preview", help="Only show how --transform changes them, by kind.")
]
TryOption = Annotated[
    bool,
    typer.Option(
        "--try",
        help="Only run them through the handlers of --app, roll back, and say which succeed.",
    ),
]
Within = Annotated[
    Any,
    typer.Option(
        "--within",
        parser=session.duration,
        metavar="DURATION",
        help="How long a transform, or a handler that is tried, may take for one letter.",
    ),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Do not hold what --transform gives against the event's class."
    ),
]

WITHIN = "10s"
_MOST_LINES = 24
"""Differences of one sample; --json has them all."""
_MOST_GROUPS = 50
_MOST_TEXT = 10_000
_BECOMES: dict[Becomes, str] = {
    "changed": "would be sent, changed",
    "unchanged": "would be sent as they are",
    "gone": "stay: there is nothing to send",
    "refused": "stay: refused",
    "raised": "stay: the transform failed",
    "hangs": "stay: the transform did not end",
    "unusable": "stay: what the transform gave cannot be sent",
    "invalid": "stay: the consumer could not read what the transform gave",
}
_COMES_TO: dict[ComesTo, str] = {
    "succeeds": "would succeed",
    "already": "have had their effect",
    "poison": "would be letters again: poison",
    "undecodable": "would be letters again: undecodable",
    "fails": "would fail",
    "ignored": "would be ignored",
    "waits": "wait behind another",
    "untried": "were not tried",
    "stays": "would not be sent",
}


# ------------------------------------------------------------------------- what is opened


def refuse(transform: str | None, *, payload: bool, preview: bool) -> None:
    """``ConfigError`` for options that do not go together."""
    if transform and payload:
        raise ConfigError("--payload and --transform both say what to send", hint="give one")
    if preview and not transform:
        raise ConfigError("--preview shows what --transform changes", hint="name one")


def application_of(ctx: typer.Context, target: str | None) -> Seaway | None:
    """The application that ``--app`` names, or a Django project has; not connected."""
    from seaway.cli.run import load_application

    flags = session.flags(ctx)
    if target is None and flags.project is not None:
        target = flags.project.application
    if target is None:
        return None
    app = load_application(target, flags, required=False)
    if app.settings.source is None:
        app.settings = session.settings(ctx)  # Those of `seaway run --dev`.
    return app


@asynccontextmanager
async def transforming(
    target: str | None, app: Seaway | None, *, within: timedelta, check: bool = True
) -> AsyncIterator[Transforming | None]:
    """The transform of that name, ``None`` without one."""
    if target is None:
        yield None
        return
    from seaway.mending.checking import checked_by
    from seaway.mending.transforming import Transforming, find_transform

    function = find_transform(target)
    held = checked_by(None if app is None else app.consumers) if check else None
    async with Transforming(function, name=target, check=held, within=within) as found:
        yield found


# ------------------------------------------------------------------------- previews


async def preview(
    queue: Mending,
    letters: Sequence[Letter],
    transform: Transforming | None,
    *,
    to: Target,
    as_json: bool,
) -> bool:
    """Print how ``letters`` would change; whether all would be sent."""
    from seaway.mending.previewing import Preview, mended_all

    found = Preview()
    with progress("previewing", len(letters)) as advance:
        async with aclosing(mended_all(queue, letters, transform, to=to)) as each:
            async for one in each:
                found.take(one)
                advance(1)
    if as_json:
        print_json([group.told() for group in found.groups])
    else:
        _print_preview(found)
        printing.note(
            f"{counted(found.sent, 'letter')} would be sent, {found.stay} would stay. Nothing was "
            "sent."
        )
    return not found.stay


def _print_preview(found: Preview) -> None:
    for number, group in enumerate(found.groups[:_MOST_GROUPS]):
        if number:
            say("")
        what = f" of {group.subject}" if group.subject else ""
        say(f"{counted(group.letters, 'letter')}{what} {_BECOMES[group.becomes]}", "bold")
        if group.reason:
            say(f"  {group.reason}")
        for form in group.form:
            say(f"  {form}")
        _print_sample(group)
    _print_more(len(found.groups))


def _print_more(groups: int) -> None:
    if groups > _MOST_GROUPS:
        say(f"\n… and {counted(groups - _MOST_GROUPS, 'group')} more: --json has all")


def _print_sample(group: Alike) -> None:
    from seaway.mending.transforming import Stays

    sample = group.sample
    more = "" if group.letters == 1 else f", and {group.letters - 1} more"
    say(f"  {group.ids[0]}{more}")
    if sample is None:
        return
    if isinstance(sample.stays, Stays) and sample.stays.said not in ("", sample.stays.reason):
        say(f"  {sample.stays.said}")
    print_differences(sample.differences)


def print_differences(found: Sequence[Difference], indent: str = "    ") -> None:
    """A line for what was, one for what is; red and green on a terminal."""
    lines = list(_lines(found))
    for sign, text in lines[:_MOST_LINES]:
        say(f"{indent}{sign} {_cut(text, len(indent) + 2)}", "red" if sign == "-" else "green")
    if len(lines) > _MOST_LINES:
        say(f"{indent}… and {counted(len(lines) - _MOST_LINES, 'line')} more: --json has all")


def _lines(found: Sequence[Difference]) -> Iterator[tuple[str, str]]:
    from seaway.mending.differences import ABSENT

    for one in found:
        for sign, value in (("-", one.before), ("+", one.after)):
            if value is not ABSENT:
                yield sign, f"{one.name}: {_shown(value, one.place == 'header')}"


def _shown(value: Any, as_it_is: bool) -> str:
    if isinstance(value, bytes):
        return printable(value.decode("utf-8", "backslashreplace")).replace("\n", "\\n")
    if as_it_is:
        return str(value)
    return printing.json_text(value)


def _cut(text: str, taken: int) -> str:
    """As much as a line of the terminal holds; in a pipe more."""
    room = _MOST_TEXT
    if printing.out().is_terminal:
        room = max(20, printing.out().width - taken)
    return text if len(text) <= room else f"{text[: room - 1]}…"


# ------------------------------------------------------------------------- trials


async def trial(
    queue: Mending,
    letters: Sequence[Letter],
    app: Seaway | None,
    transform: Transforming | None,
    *,
    within: timedelta,
    as_json: bool,
) -> bool:
    """Run ``letters`` through their handlers and print what came of it; whether all succeed."""
    from seaway.mending.trying import Outcomes, tried_all

    if app is None:
        raise ConfigError("--try needs the handlers", hint="name the application: --app module:app")
    printing.note(
        "Trying: every transaction is rolled back. What handlers do outside of it (mails, "
        "requests, files) happens; delivery.tried tells them."
    )
    found = Outcomes()
    async with app:
        with progress("trying", len(letters)) as advance:
            tried = tried_all(queue, letters, app, transform=transform, within=within)
            async with aclosing(tried) as each:
                async for one in each:
                    found.take(one)
                    advance(1)
    if as_json:
        print_json([group.told() for group in found.groups])
    else:
        _print_outcomes(found, len(letters))
    return found.count("succeeds", "already") == len(letters)


def _print_outcomes(found: Outcomes, total: int) -> None:
    for group in found.groups[:_MOST_GROUPS]:
        say(_headline(group), "bold")
        if group.reason:
            where = f" ({group.place})" if group.place else ""
            say(f"  {group.reason}{where}")
        more = "" if group.letters == 1 else f", and {group.letters - 1} more"
        say(f"  {group.ids[0]}{more}")
    _print_more(len(found.groups))
    printing.note(
        f"{found.count('succeeds')} of {counted(total, 'letter')} would succeed. Nothing was sent, "
        "acknowledged or kept."
    )


def _headline(group: SameOutcome) -> str:
    of = f" of {group.subject}" if group.subject else ""
    at = f" in {group.consumer}" if group.consumer else ""
    return f"{counted(group.letters, 'letter')}{of} {_COMES_TO[group.comes_to]}{at}"
