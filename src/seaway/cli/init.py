"""``seaway init``: a first ``seaway.yaml``, with what else may stand in it as comments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seaway import naming
from seaway.cli import session
from seaway.config.loading import DEFAULT_FILE
from seaway.errors import ConfigError

TEMPLATE = """\
# What Seaway needs to know. Values may hold ${VARIABLE} and ${VARIABLE:-default}; what the
# environment says (NATS_URL, SEAWAY_DATABASE_URL, SEAWAY_PROFILE, ...) wins over this file.
# Every key: docs/reference/configuration.md. What is commented out shows the default.

# One event stream, its dead letters and its redrives for each context, and one durable, which is
# app.consumer("@CONTEXT@", purpose="default"). To be without it, list the stream below instead.
contexts: [@CONTEXT@]

# Outbox and inbox. postgresql://user@host/database on PostgreSQL.
database: "sqlite:///seaway.db"

# The server. Credentials as the nats CLI has them: user and password, token, nkey, creds, tls_*.
# nats: {url: "nats://127.0.0.1:4222"}

# How many servers keep each stream: three in production, one on a developer's machine.
profile: development
profiles:
  development: {replicas: 1}
  production: {replicas: 3}

# One durable for each service that handles a context's events: {service}__from_{context}.
# consumers:
#   - stream: @STREAM@
#     durable: billing__from_@CONTEXT@
#     ack_wait: 120s
#     max_deliver: 20
#     max_ack_pending: 50

# Where a stream is not to be as contexts: makes it, or to be without @CONTEXT@__default: then
# take @CONTEXT@ out of contexts: above.
# streams:
#   - name: @STREAM@
#     retention: limits
#     max_age: 7d
#     max_bytes: 10GB

# outbox: {retention: 7d, max_message_bytes: 1MB, max_attempts: 10}

# alerts:
#   stream_messages_pending: 1000
#   consumer_ack_pending: 100
#   consumer_redelivery_count: 50/min
"""


def text_for(context: str) -> str:
    """The file's text for one context; ``InvalidName`` where that is none."""
    return TEMPLATE.replace("@STREAM@", naming.events_stream(context)).replace("@CONTEXT@", context)


def init(
    ctx: typer.Context,
    context: Annotated[str, typer.Argument(help="The first context: a word like shop.")] = "shop",
) -> None:
    """Write a commented seaway.yaml (or the file that --config names)."""

    async def work() -> None:
        path = session.flags(ctx).config or Path(DEFAULT_FILE)
        text = text_for(context)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(
                f"{path} is there already", hint="another name: seaway --config FILE init"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        session.err.print(
            f"{path} is written. Next: seaway dev, and in another terminal seaway topology apply, "
            "seaway db upgrade.",
            markup=False,
            soft_wrap=True,
        )

    session.run(work())
