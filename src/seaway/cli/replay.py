"""``seaway replay``: what a stream holds, as JSON lines."""

from __future__ import annotations

import base64
import json
from contextlib import aclosing
from typing import Annotated, Any

import typer

from seaway.cli import session
from seaway.cli.dlq import json_value, moment
from seaway.contracts import StoredMessage
from seaway.errors import ConfigError
from seaway.headers import format_time
from seaway.naming import check_filter, events_stream


def line_of(stored: StoredMessage) -> str:
    """One message as a line of JSON; ``payload`` where it is JSON, else ``payload_base64``.

    A payload stands there as it was written, so that no number loses a digit on its way.
    """
    line: dict[str, Any] = {
        "stream": stored.stream,
        "stream_seq": stored.stream_seq,
        "stored_at": format_time(stored.stored_at),
        "subject": stored.message.subject,
        "event_id": stored.event_id,
        "headers": dict(stored.message.headers),
    }
    payload = stored.message.payload
    try:
        json_value(payload)
    except ValueError:
        line["payload_base64"] = base64.b64encode(payload).decode()
        return json.dumps(line, ensure_ascii=False)
    # Outside of its strings JSON takes a line break for a blank; inside there can be none.
    text = payload.decode().replace("\r", " ").replace("\n", " ").strip()
    return f'{json.dumps(line, ensure_ascii=False)[:-1]}, "payload": {text}}}'


def replay(
    ctx: typer.Context,
    stream: Annotated[str | None, typer.Option(help="Which stream.")] = None,
    context: Annotated[str | None, typer.Option(help="Or whose event stream, like sea.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only these, wildcards allowed.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="From a time, or an age like 2h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before a time, or an age.")] = None,
    from_seq: Annotated[int | None, typer.Option(help="From this sequence.", min=1)] = None,
    to_seq: Annotated[int | None, typer.Option(help="To this sequence, included.", min=1)] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 0,
) -> None:
    """Print the history of a stream as JSON lines, oldest first; it touches no consumer."""

    async def work() -> None:
        settings = session.settings(ctx)
        if since is not None and from_seq is not None:
            raise ConfigError("give either --from or --from-seq")
        name = stream or (events_stream(context) if context else None)
        if name is None:
            if len(settings.streams) != 1:
                raise ConfigError("which stream?", hint="--stream SEA_EVENTS, or --context sea")
            name = settings.streams[0].name
        ends = moment(until, "--until")
        count = 0
        async with session.open_app(ctx) as application:
            history = application.broker.admin.read(
                name,
                filter_subjects=[check_filter(subject)] if subject else [],
                from_seq=from_seq,
                from_time=moment(since, "--from"),
            )
            # A reader left early must remove its consumer while it is still connected.
            async with aclosing(history):
                async for stored in history:
                    if to_seq is not None and stored.stream_seq > to_seq:
                        break
                    if ends is not None and stored.stored_at >= ends:
                        break
                    typer.echo(line_of(stored))
                    count += 1
                    if count == limit:
                        break

    session.run(work())
