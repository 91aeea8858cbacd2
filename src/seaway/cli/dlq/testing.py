"""``seaway dlq test``: a letter becomes a test."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import options
from seaway.errors import ConfigError


@session.runs
async def as_test(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Letter id or event id.")],
    consumer: options.Consumer = None,
    redact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Replace what the payload has there: customer.name, items.*.iban. Repeatable.",
        ),
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE:APP",
            help="The application whose handler failed; a Django project has one.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write it into this new file.", metavar="FILE")
    ] = None,
) -> None:
    """Print a dead letter as a pytest: it fails as the letter did, and passes once mended."""
    from seaway.cli.run import load_application

    flags = session.flags(ctx)
    if application is None and flags.project is not None:
        application = flags.project.application
    if application is None:
        raise ConfigError(
            "whose handler failed is not said", hint="name the application: --app module:app"
        )
    with redirect_stdout(sys.stderr):  # What it prints is no part of the test.
        app = load_application(application, flags, required=False, heeds=False)
    async with options.opened(ctx) as letters:
        letters.application = app
        letter = await letters.get(letter_id, consumer=consumer)
        made = await letters.as_test(letter, redact=redact or (), app=application)
    for note in made.notes:
        printing.note(note)
    if output is None:
        typer.echo(made.source.encode(), nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(made.source)
    except FileExistsError as error:
        raise ConfigError(f"--output {output} is there already", hint="give a new file") from error
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}") from error
    printing.note(f"Written: {output}. Run it: pytest {output}")
