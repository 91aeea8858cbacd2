"""Who is compared with whom, and in what. A new contender is one line here and one function.

The function stands in ``contenders`` (this project's environment) or ``peers`` (theirs): an async
context manager that takes a ``Job``, sets up, yields the run to be measured, and tears down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One column: the key in a run's figures, its title, and how it is written."""

    key: str
    title: str
    form: str = ",.0f"


@dataclass(frozen=True, slots=True)
class Contender:
    """``place``: module and function, below ``bench``. ``events``: in a round, at full scale."""

    name: str
    place: str
    events: int
    postgres: bool = False

    @property
    def peer(self) -> bool:
        """Whether it runs in the peers' environment."""
        return self.place.startswith("peers.")


@dataclass(frozen=True, slots=True)
class Group:
    """One table. Ratios are of the first figure: ``subject``'s divided by each other's."""

    name: str
    title: str
    figures: Sequence[Figure]
    contenders: Sequence[Contender]
    subject: str | None = None
    scaled: bool = True
    """Whether ``--events`` changes how many events there are."""
    default: bool = True
    """Whether it runs without being asked for."""


RATE = Figure("events_per_second", "events/s")
CPU = Figure("cpu_us_per_event", "own CPU µs/event", ".1f")
MEMORY = (
    Figure("memory_start_mib", "MiB before", ".0f"),
    Figure("memory_peak_mib", "MiB at most", ".0f"),
)

RELAY = Group(
    "relay",
    "One relay process over a backlog: outbox to stream",
    (RATE,),
    (
        Contender("seaway, PostgreSQL", "contenders.relay:postgres", 100_000, postgres=True),
        Contender("seaway, SQLite", "contenders.relay:sqlite", 100_000),
        Contender("nats-outbox", "peers.nats_outbox:relay", 20_000, postgres=True),
        Contender(
            "faststream-outbox, in order", "peers.faststream_outbox:in_order", 20_000, postgres=True
        ),
        Contender(
            "faststream-outbox, unordered",
            "peers.faststream_outbox:unordered",
            20_000,
            postgres=True,
        ),
        Contender("raw: nats-py publish_async", "contenders.publish:windowed", 100_000),
        Contender("raw: nats-py atomic batches", "contenders.publish:batches", 100_000),
    ),
    subject="seaway, PostgreSQL",
)


def _consume(pending: int, width: str) -> Group:
    return Group(
        f"consume-{pending}",
        f"One consumer process over a full stream, no database, max_ack_pending {pending:,}",
        (RATE, CPU),
        (
            Contender("seaway", f"contenders.consume:seaway_{width}", 50_000),
            Contender("seaway's broker side alone", f"contenders.consume:pull_{width}", 50_000),
            Contender("raw: nats-py fetch + ack", f"contenders.consume:raw_{width}", 50_000),
            Contender("faststream", f"peers.faststream_pull:single_{width}", 20_000),
            Contender("faststream, lists", f"peers.faststream_pull:lists_{width}", 20_000),
        ),
        subject="seaway",
    )


CONSUME = (_consume(50, "narrow"), _consume(2000, "wide"))

EFFECTS = (
    Group(
        "consume-postgres",
        "Inbox row and one insert for each event, PostgreSQL",
        (RATE,),
        (
            Contender("seaway, 16 workers", "contenders.effects:postgres_single", 20_000, True),
            Contender("seaway, batch 100", "contenders.effects:postgres_batched", 50_000, True),
            Contender("bare: asyncpg, 16 connections", "contenders.effects:bare", 20_000, True),
        ),
        subject="seaway, 16 workers",
    ),
    Group(
        "consume-plain",
        "The same with plain handlers in 16 threads, psycopg",
        (RATE,),
        (
            Contender("seaway, plain", "contenders.effects:plain_single", 20_000, True),
            Contender("seaway, plain, batch 100", "contenders.effects:plain_batched", 50_000, True),
            Contender("seaway, plain, SQLAlchemy", "contenders.effects:alchemy", 20_000, True),
            Contender("seaway, async, psycopg", "contenders.effects:async_psycopg", 20_000, True),
            Contender("seaway, async, asyncpg", "contenders.effects:postgres_single", 20_000, True),
            Contender("bare: psycopg, 16 threads", "contenders.effects:bare_threads", 20_000, True),
        ),
        subject="seaway, plain",
    ),
    Group(
        "consume-sqlite",
        "Inbox row and one insert for each event, SQLite",
        (RATE,),
        (
            Contender("seaway, one by one", "contenders.effects:sqlite_single", 10_000),
            Contender("seaway, batch 100", "contenders.effects:sqlite_batched", 50_000),
        ),
        subject="seaway, one by one",
    ),
)

LATENCY = Group(
    "latency",
    "Idle latency from commit to stored, PostgreSQL",
    (
        Figure("ratio_p50", "in bare commits", ".1f"),
        Figure("stored_p50_ms", "stored p50 ms", ".2f"),
        Figure("stored_p99_ms", "stored p99 ms", ".2f"),
        Figure("commit_p50_ms", "bare commit p50 ms", ".2f"),
        Figure("commit_p99_ms", "bare commit p99 ms", ".2f"),
    ),
    (
        Contender("seaway, notify", "contenders.latency:notified", 301, postgres=True),
        Contender("seaway, polling", "contenders.latency:polled", 301, postgres=True),
    ),
    scaled=False,
)

WRITER = Group(
    "writer",
    "A transaction with one event, beside one with one more plain insert",
    (
        Figure("ratio_p50", "event / insert", ".2f"),
        Figure("event_p50_ms", "event p50 ms", ".2f"),
        Figure("event_p99_ms", "event p99 ms", ".2f"),
        Figure("insert_p50_ms", "insert p50 ms", ".2f"),
        Figure("insert_p99_ms", "insert p99 ms", ".2f"),
    ),
    (
        Contender("seaway, polling", "contenders.writer:silent", 2000, postgres=True),
        Contender("seaway, notify", "contenders.writer:notifying", 2000, postgres=True),
    ),
    scaled=False,
)

SIZES = Group(
    "sizes",
    "The same relay at a small and at a large backlog, PostgreSQL",
    (RATE, *MEMORY),
    (
        Contender("backlog of 10,000", "contenders.relay:postgres_repeated", 10_000, postgres=True),
        Contender("backlog of 1,000,000", "contenders.relay:postgres", 1_000_000, postgres=True),
    ),
    subject="backlog of 1,000,000",
    scaled=False,
    default=False,
)

GROUPS = (RELAY, *CONSUME, *EFFECTS, LATENCY, WRITER, SIZES)
