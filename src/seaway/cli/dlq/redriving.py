"""``seaway dlq redrive``: events are brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast, get_args

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import options
from seaway.cli.dlq.reporting import Behind, report, with_behind
from seaway.cli.printing import Json, progress
from seaway.dead_letters import Selection
from seaway.errors import ConfigError

Target: TypeAlias = Literal["consumer", "all"]


@session.runs
@options.selecting
async def redrive(
    ctx: typer.Context,
    selected: Selection,
    everything: options.All = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    payload: Annotated[
        Path | None, typer.Option(help="A corrected payload, for one letter.", metavar="FILE")
    ] = None,
    to: Annotated[
        str, typer.Option(help="consumer: the one that failed; all: everyone.")
    ] = "consumer",
    rate: Annotated[float | None, typer.Option(help="At most so many a second.", min=0.01)] = None,
    as_json: Json = False,
) -> None:
    """Bring events back: to the consumer that failed, and to nobody else."""
    if to not in get_args(Target):
        raise ConfigError(f"--to {to!r} is neither consumer nor all")
    target = cast(Target, to)
    body = _payload(payload)
    done: list[Behind] = []
    async with options.opened(ctx) as queue:
        chosen = await options.chosen(queue, selected, everything)
        if body is not None and len(chosen) != 1:
            raise ConfigError(f"--payload is for one letter, and {len(chosen)} are selected")
        found = with_behind(chosen, await queue.waiting(chosen) if target == "consumer" else ())
        behind = {letter.id: count for letter, count in found}
        if dry_run:
            for letter in chosen:
                if not letter.goes(to_all=target == "all"):
                    printing.note(f"stays: {letter.id}: {letter.problem}")
            going = [one for one in found if one[0].goes(to_all=target == "all")]
            report(going, "would be redriven", as_json)
            return
        try:
            with progress("redriving", len(chosen)) as advance:
                redriven = queue.redrive_all(chosen, payload=body, to=target, rate=rate)
                async for letter, error in redriven:
                    advance(1)
                    if error is None:
                        done.append((letter, behind[letter.id]))
                    else:
                        printing.note(f"stays: {error}")
        finally:
            with session.unread():
                report(done, "redriven", as_json)
    if len(done) < len(chosen):
        raise typer.Exit(1)


def _payload(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--payload {path}: {error.strerror}") from error
