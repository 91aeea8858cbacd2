"""``seaway dlq``: dead letters listed, shown, redriven, discarded, brought back."""

from __future__ import annotations

import typer

from seaway.cli.dlq import discarding, editing, later, listing, redriving, testing

app = typer.Typer(help="Dead letters: list, show, redrive, discard.", no_args_is_help=True)

app.command("ls")(listing.list_letters)
app.command()(listing.show)
app.command()(redriving.redrive)
app.command()(redriving.runs)
app.command()(editing.edit)
app.command()(discarding.discard)
app.command()(later.cancel)
app.command("test")(testing.as_test)
app.command()(discarding.restore)
app.command()(discarding.log)
