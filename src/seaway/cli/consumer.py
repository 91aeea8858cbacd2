"""``seaway consumer``: the durables of a stream, and one of them as the nats CLI shows it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from seaway.cli import tables
from seaway.cli.session import Json, out, print_json, run
from seaway.cli.stream import checked, connected, no_such_stream, not_found, show
from seaway.cli.tables import Column
from seaway.contracts import JSON
from seaway.monitor.snapshot import ConsumerView

app = typer.Typer(help="Look at consumers.", no_args_is_help=True)

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="Like SEA_EVENTS.")]


@app.command()
def ls(ctx: typer.Context, stream: Stream, as_json: Json = False) -> None:
    """List a stream's durables."""
    infos = run(_consumers(ctx, stream))
    if as_json:
        print_json(infos)
        return
    if not infos:
        out.print(f"{stream} has no durables: seaway topology apply makes those of seaway.yaml.")
        return
    tables.show(
        (
            Column("CONSUMER"),
            Column("FILTER", rank=2),
            Column("PENDING", right=True),
            Column("ACK PENDING", right=True),
            Column("REDELIVERED", rank=1, right=True),
            Column("WAITING", rank=3, right=True),
        ),
        [
            (
                view.durable,
                "\n".join(view.filters) or "all",
                f"{view.num_pending:,}",
                f"{view.num_ack_pending:,}",
                f"{view.num_redelivered:,}",
                str(view.num_waiting),
            )
            for view in map(ConsumerView.read, infos)
        ],
    )


@app.command()
def info(
    ctx: typer.Context,
    stream: Stream,
    durable: Annotated[str, typer.Argument(metavar="DURABLE", help="Like case_mgmt__from_sea.")],
    as_json: Json = False,
) -> None:
    """Show one durable; the JSON is that of `nats consumer info STREAM DURABLE --json`."""
    found = run(_consumer(ctx, stream, durable))
    if as_json:
        print_json(found)
        return
    view, config = ConsumerView.read(found), found["config"]
    held = f"{view.num_ack_pending:,}"
    if view.max_ack_pending:
        held += f" of {view.max_ack_pending:,}"
    show(
        f"{view.stream} / {view.durable}",
        [
            ("filter", ", ".join(view.filters) or "all"),
            ("pending", f"{view.num_pending:,}"),
            ("ack pending", held),
            ("redelivered now", f"{view.num_redelivered:,}"),
            ("waiting pulls", str(view.num_waiting)),
            ("delivered", f"{view.consumer_seq:,} times, up to sequence {view.stream_seq:,}"),
            ("settled", f"all up to sequence {view.ack_floor:,}"),
            ("ack wait", f"{config.get('ack_wait', 0) / 1e9:g} s"),
            ("max deliver", str(config.get("max_deliver", "–"))),
            ("exclusive", _turn(found)),
            ("created", view.created),
        ],
    )


def _turn(found: JSON) -> str:
    """Whether one process at a time is given messages, and since when that is this one."""
    if found["config"].get("priority_policy") != "pinned_client":
        return "no"
    for state in found.get("priority_groups") or ():
        if state.get("pinned_client_id"):
            return f"yes, to one process since {state['pinned_ts']}"
    return "yes, to no process now"


async def _consumers(ctx: typer.Context, stream: str) -> list[JSON]:
    async with connected(ctx) as admin:
        if await admin.stream(checked(stream, "stream")) is None:
            raise await no_such_stream(admin, stream)
        listed = [i for i in await admin.consumers(stream) if i["config"].get("durable_name")]
        # Lists may come from a follower, whose figures are stale: ask for each.
        infos = await asyncio.gather(*(admin.consumer(stream, i["name"]) for i in listed))
        return sorted((i for i in infos if i is not None), key=lambda info: str(info["name"]))


async def _consumer(ctx: typer.Context, stream: str, durable: str) -> JSON:
    async with connected(ctx) as admin:
        found = await admin.consumer(checked(stream, "stream"), checked(durable, "consumer"))
        if found is not None:
            return found
        if await admin.stream(stream) is None:
            raise await no_such_stream(admin, stream)
        names = [str(info["name"]) for info in await admin.consumers(stream)]
        raise not_found("consumer", durable, names, f"on {stream}")
