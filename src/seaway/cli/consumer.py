"""``seaway consumer``: the durables of a stream, and one of them as the nats CLI shows it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from seaway.cli import tables
from seaway.cli.session import Json, out, print_json, run
from seaway.cli.stream import checked, connected, no_such_stream, not_found, show
from seaway.cli.tables import Column
from seaway.contracts import ConsumerInfo
from seaway.headers import format_time

app = typer.Typer(help="Look at consumers.", no_args_is_help=True)

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="Like SEA_EVENTS.")]


@app.command()
def ls(ctx: typer.Context, stream: Stream, as_json: Json = False) -> None:
    """List a stream's durables."""
    infos = run(_consumers(ctx, stream))
    if as_json:
        print_json([one.document for one in infos])
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
                one.durable,
                "\n".join(one.filters) or "all",
                f"{one.num_pending:,}",
                f"{one.num_ack_pending:,}",
                f"{one.num_redelivered:,}",
                str(one.num_waiting),
            )
            for one in infos
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
        print_json(found.document)
        return
    held = f"{found.num_ack_pending:,}"
    times = "time" if found.consumer_seq == 1 else "times"
    if found.max_ack_pending:
        held += f" of {found.max_ack_pending:,}"
    show(
        f"{found.stream} / {found.durable}",
        [
            ("filter", ", ".join(found.filters) or "all"),
            ("pending", f"{found.num_pending:,}"),
            ("ack pending", held),
            ("redelivered now", f"{found.num_redelivered:,}"),
            ("waiting pulls", str(found.num_waiting)),
            ("delivered", f"{found.consumer_seq:,} {times}, up to sequence {found.stream_seq:,}"),
            ("settled", f"all up to sequence {found.ack_floor:,}"),
            ("ack wait", f"{found.ack_wait.total_seconds():g} s"),
            ("max deliver", str(found.max_deliver or "unlimited")),
            ("exclusive", _turn(found)),
            ("created", found.created),
        ],
    )


def _turn(found: ConsumerInfo) -> str:
    """Whether one process at a time is given messages, and since when that is this one."""
    if not found.exclusive:
        return "no"
    if found.given_to_one_since is None:
        return "yes, to no process now"
    return f"yes, to one process since {format_time(found.given_to_one_since)}"


async def _consumers(ctx: typer.Context, stream: str) -> list[ConsumerInfo]:
    async with connected(ctx) as admin:
        if await admin.stream(checked(stream, "stream")) is None:
            raise await no_such_stream(admin, stream)
        listed = sorted(one.key for one in await admin.consumers(stream) if not one.ephemeral)
        # Lists may come from a follower, whose figures are stale: ask for each.
        infos = await asyncio.gather(*(admin.consumer(*key) for key in listed))
        return [one for one in infos if one is not None]


async def _consumer(ctx: typer.Context, stream: str, durable: str) -> ConsumerInfo:
    async with connected(ctx) as admin:
        found = await admin.consumer(checked(stream, "stream"), checked(durable, "consumer"))
        if found is not None:
            return found
        if await admin.stream(stream) is None:
            raise await no_such_stream(admin, stream)
        names = [info.durable for info in await admin.consumers(stream)]
        raise not_found("consumer", durable, names, f"on {stream}")
