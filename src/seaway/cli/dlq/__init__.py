"""``seaway dlq``: dead letters listed, shown, redriven, discarded."""

from __future__ import annotations

import typer

from seaway.cli.dlq import discarding, listing, redriving, testing

app = typer.Typer(help="Dead letters: list, show, redrive, discard.", no_args_is_help=True)

app.command("ls")(listing.list_letters)
app.command()(listing.show)
app.command()(redriving.redrive)
app.command()(discarding.discard)
app.command("test")(testing.as_test)
