"""``seaway replay``: a stream's history as JSON lines, or once more into a handler."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from seaway.cli import printing, session
from seaway.cli.printing import Json, progress
from seaway.cli.streams import stream_of
from seaway.config import Settings
from seaway.errors import ConfigError
from seaway.history.replay.lines import is_own, line_of
from seaway.history.replay.window import Bound, events, window_of
from seaway.naming import check_filter, events_stream
from seaway.words import counted


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, as it was written."""

    stream: str
    since: str | None
    until: str | None
    subject: str | None
    key: str | None

    @property
    def bounds(self) -> tuple[Bound, Bound]:
        """What ``--from`` and ``--to`` say."""
        return bound(self.since, "--from"), bound(self.until, "--to")


def bound(text: str | None, option: str) -> int | datetime | None:
    """A sequence, an RFC 3339 time, or an age; ``ConfigError`` names ``option``."""
    if text is not None and text.isdecimal():
        return int(text)
    try:
        return session.moment(text, option)
    except ConfigError:
        raise ConfigError(
            f"{option} {text!r} is neither a sequence, a time nor an age",
            hint="like 1200, 2026-11-24T08:00:00Z, or 2h",
        ) from None


@session.runs
async def replay(
    ctx: typer.Context,
    stream: Annotated[
        str | None, typer.Argument(metavar="[STREAM]", help="Like SEA_EVENTS.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="FROM", help="A sequence, a time, or an age like 2h."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TO", help="To this sequence, included; or before a time or an age."
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only these, wildcards allowed.")] = None,
    key: Annotated[str | None, typer.Option(help="Only those of this ordering key.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many lines; 0: all.", min=0)] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Into a file; a second time it goes on there."
        ),
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(
            "--handler",
            metavar="MODULE:APP/CONSUMER",
            help="Into this consumer's handlers, like shop.events:app/billing__from_shop.",
        ),
    ] = None,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="Roll each event back; compare with what became of it then."),
    ] = False,
    reprocess: Annotated[
        bool,
        typer.Option(
            "--reprocess", help="Handle each event again, in place of its first effect; asks."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Keys that are worked on at a time; each in order.", min=1)
    ] = 1,
    time_limit: Annotated[
        Any,
        typer.Option(
            "--time-limit",
            parser=session.duration,
            metavar="DURATION",
            help="How long a handler may run. Default: its deadline, else 1m.",
        ),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin anew; else an unfinished run goes on.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what --reprocess would do.")
    ] = False,
    by: session.By = None,
    yes: session.Yes = False,
    as_json: Json = False,
    named: Annotated[str | None, typer.Option("--stream", hidden=True)] = None,
    context: Annotated[
        str | None, typer.Option(help="In place of STREAM: whose event stream, like sea.")
    ] = None,
    before: Annotated[str | None, typer.Option("--until", hidden=True)] = None,
    from_seq: Annotated[int | None, typer.Option("--from-seq", hidden=True, min=1)] = None,
    to_seq: Annotated[int | None, typer.Option("--to-seq", hidden=True, min=1)] = None,
) -> None:
    """Print a stream's history as lines for outbox add, or run a handler over it again.

    It touches no durable. With --handler exits 1 where any event ends in another way (--shadow), or
    fails (--reprocess).
    """
    begins = [one for one in (since, from_seq) if one is not None]
    ends = [str(one) for one in (until, before, to_seq) if one is not None]
    if len(begins) > 1 or len(ends) > 1:
        raise ConfigError("give one begin and one end: --from, and --to")
    settings = session.settings(ctx, required=handler is None and not (stream or named or context))
    asked = Asked(
        stream or named or _only_stream(settings, context),
        str(begins[0]) if begins else None,
        ends[0] if ends else None,
        None if subject is None else check_filter(subject),
        key,
    )
    asked.bounds  # noqa: B018 - What cannot be read is said before anything is opened.
    if handler is None:
        if shadow or reprocess or dry_run:
            raise ConfigError(
                "--shadow and --reprocess need to know whose handlers",
                hint="--handler module:app/consumer",
            )
        await _print(settings, asked, limit, output)
        return
    if shadow == reprocess:
        raise ConfigError(
            "give --shadow or --reprocess with --handler",
            hint="--shadow changes nothing, --reprocess handles each event again",
        )
    if limit or output or (dry_run and shadow):
        raise ConfigError(
            "--limit and --output are for lines, --dry-run is for --reprocess",
            hint="choose events with --from, --to, --subject and --key",
        )
    from seaway.cli import replaying  # Lines need no application.

    await replaying.run(
        ctx,
        asked,
        handler,
        "shadow" if shadow else "reprocess",
        workers=workers,
        within=time_limit,
        anew=anew,
        dry_run=dry_run,
        by=by,
        yes=yes,
        as_json=as_json,
    )


def _only_stream(settings: Settings, context: str | None) -> str:
    if context:
        return events_stream(context)
    if len(settings.streams) != 1:
        known = ", ".join(one.name for one in settings.streams) or "none"
        raise ConfigError("which stream?", hint=f"name one; the file has {known}")
    return settings.streams[0].name


# ------------------------------------------------------------------------------- lines


async def _print(settings: Settings, asked: Asked, limit: int, output: Path | None) -> None:
    since, until = asked.bounds
    filters = [asked.subject] if asked.subject else []
    unnamed = count = 0
    async with session.open_server(settings) as broker:
        admin = broker.admin
        await stream_of(admin, asked.stream)
        window = await window_of(
            admin, asked.stream, since=since, until=until, filters=filters, key=asked.key
        )
        if window.lacking:
            printing.note(f"note: {window.lacking}")
        with _lines_to(output, asked.stream) as (after, write):
            total = None
            if output is not None:
                total = await window.count(admin, after=after)
            with progress("replayed", total) as advance:
                async with aclosing(events(admin, window, after=after)) as history:
                    async for stored in history:
                        write(line_of(stored))
                        unnamed += not is_own(stored.event_id)
                        count += 1
                        if output is not None:
                            advance(1)
                        if count == limit:
                            break
    if unnamed:
        printing.note(
            f"note: {counted(unnamed, 'message has', 'messages have')} no id that an outbox takes: "
            "added, they get new ones"
        )
    if output is not None:
        where = f", behind {asked.stream}:{after}" if after else ""
        printing.note(f"{counted(count, 'line')} written to {output}{where}.")


@contextmanager
def _lines_to(output: Path | None, stream: str) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Behind which sequence to go on, and what takes lines."""
    if output is None:
        yield 0, typer.echo
        return
    try:
        file = output.open("r+b" if output.exists() else "w+b")
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}") from error
    with file:
        after = _whole_lines(file, output, stream)
        yield after, lambda line: _write(file, line)
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, line: str) -> None:
    file.write(line.encode("utf-8", "surrogateescape") + b"\n")


def _whole_lines(file: BinaryIO, output: Path, stream: str) -> int:
    """Cut off what was half written; the sequence of the last whole line, 0 where there is none."""
    size = file.seek(0, os.SEEK_END)
    end, tail, step = size, b"", 1 << 16
    # The last line, and the line end before it.
    while end > 0 and tail.count(b"\n") < 2:
        start = max(0, end - step)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    whole = tail.rpartition(b"\n")[0]
    if not whole:
        if end > 0 or (tail and not tail.startswith(b'{"stream"')):
            raise ConfigError(f"{output} is no file of a replay", hint="name another")
        file.seek(0)
        file.truncate()
        return 0
    try:
        said = json.loads(whole.rpartition(b"\n")[2])
        found, after = said["stream"], int(said["stream_seq"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{output} is no file of a replay", hint="name another") from error
    if found != stream:
        raise ConfigError(f"{output} is of {found}, not of {stream}", hint="name another file")
    file.seek(size - (len(tail) - len(whole) - 1))
    file.truncate()
    return after
