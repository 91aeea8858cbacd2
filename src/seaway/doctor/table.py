"""Every finding that the doctor knows: its code, its weight, what it means and what mends it. Pure.

Owns: the words. ``docs/reference/doctor.md``, ``seaway doctor --explain`` and each report are made
of this table; what is found, ``rules`` says. A code is never given to another finding.

    SW-1xx server    SW-2xx streams     SW-3xx durables      SW-4xx outbox and relay
    SW-5xx inbox     SW-6xx database    SW-7xx application   SW-8xx rights
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias


class Weight(StrEnum):
    """How much a finding matters; the first two have the command exit with 1."""

    CRITICAL = "critical"
    """Something is lost, stands still, or cannot be done."""
    WARNING = "warning"
    """It will be, when something else goes wrong."""
    ADVICE = "advice"
    """It could be better."""


Need: TypeAlias = Literal["server", "database", "processes", "application", "monitoring", "role"]
"""What has to be there for a finding to be looked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. ``seen`` and ``mend`` are filled in with what was found (``str.format``)."""

    code: str
    title: str
    weight: Weight | None
    """``None``: as ``seaway check`` judges it by its thresholds."""
    needs: Sequence[Need]
    seen: str
    why: str
    mend: str
    check: str = ""
    """Which check of ``seaway check`` finds it; empty: only the doctor does."""


FAMILIES: Mapping[str, str] = {
    "0": "What is found elsewhere",
    "1": "Server",
    "2": "Streams",
    "3": "Durables",
    "4": "Outbox and relay",
    "5": "Inbox and dead letters",
    "6": "Database",
    "7": "Application",
    "8": "Rights",
}

_CRITICAL, _WARNING, _ADVICE = Weight.CRITICAL, Weight.WARNING, Weight.ADVICE

ENTRIES: Sequence[Entry] = (
    Entry(
        "SW-001",
        "A check without a code of its own",
        None,
        (),
        "{message}",
        "`seaway check` judges it, and the doctor shows it so that nothing is left out.",
        "{next}",
        check="any other",
    ),
    # ------------------------------------------------------------------ server
    Entry(
        "SW-101",
        "The server is away, or has no JetStream",
        None,
        (),
        "{message}",
        "Events wait in the outbox, and consumers get none. Nothing is lost meanwhile.",
        "{next}",
        check="server",
    ),
    Entry(
        "SW-102",
        "The server is old",
        _WARNING,
        ("server",),
        "nats-server {version}, which lacks: {lacks}",
        "Seaway does without what a server cannot do, at a price: over a crash, newer events of a "
        "key may take effect before what was on its way; publishing is slower; some settings are "
        "refused.",
        "upgrade nats-server to {since} or newer",
    ),
    Entry(
        "SW-103",
        "What the server acknowledges is not on its disk yet",
        _ADVICE,
        ("server", "monitoring"),
        "sync_interval is {sync} and there is one replica of {streams}",
        "After a power failure the server has forgotten what it acknowledged since the last sync. "
        "The relay sends it again out of the history of the outbox (`seaway_sent`), so nothing is "
        "lost while that reaches back far enough.",
        "replicas: 3 for these streams, or sync_interval: always in the server's configuration",
    ),
    Entry(
        "SW-104",
        "Clocks differ",
        _WARNING,
        ("server", "database"),
        "the clock of {ours} is {by} {direction} that of {theirs}",
        "Times in traces and audits come from three clocks: steps seem to take negative time, and "
        "retention drops by one clock what was dated by another.",
        "run a time service (chrony, systemd-timesyncd) on each of these machines",
    ),
    # ------------------------------------------------------------------ streams
    Entry(
        "SW-201",
        "A stream of the configuration is missing",
        None,
        ("server",),
        "{message}",
        "Its events wait in the outbox; nobody can consume them.",
        "{next}",
        check="stream",
    ),
    Entry(
        "SW-202",
        "The stream of advisories is missing",
        None,
        ("server",),
        "{message}",
        "The server says in an advisory which message it gave up on (`max_deliver`). Without this "
        "stream nobody keeps them, and such messages become letters only after a slow search.",
        "{next}",
        check="stream",
    ),
    Entry(
        "SW-203",
        "The duplicate window is shorter than the relay may take to send again",
        _WARNING,
        ("server",),
        "{stream} knows ids for {window}; a relay may send the same again after {resend}",
        "A relay that was stopped (a paused machine, SIGSTOP) loses its right after 30 s, and what "
        "it sent last may be on its way for as long as a request may take. Within the window the "
        "stream stores such an event once, beyond it twice.",
        "duplicate_window: 2m for {stream}, then seaway topology apply",
    ),
    Entry(
        "SW-204",
        "What the stream loses cannot be healed",
        _WARNING,
        (),
        "{stream} has one replica, and {why_not}",
        "JetStream acknowledges before it writes to disk. What a power failure or an old copy of "
        "its store takes away can only be sent again from the history of the outbox.",
        "{way}",
    ),
    Entry(
        "SW-205",
        "The outbox's history is short",
        _WARNING,
        (),
        "outbox.retention is {retention}: what a stream loses is healed only back to then",
        "A server that comes back with an older state of its store (a restored snapshot, a failed "
        "disk) has lost hours. What is older than the history is named as lost, and stays so.",
        "outbox.retention: 7d",
    ),
    Entry(
        "SW-206",
        "A stream will drop what a consumer has not read",
        _WARNING,
        ("server",),
        "{stream}/{durable}: {pending} pending, and {stream} drops the oldest of them {when}",
        "A stream that discards its oldest does not ask who has read it. What goes is no letter, "
        "and the consumer never hears of it.",
        "start more workers; until they have caught up, raise {limit} of {stream}",
    ),
    Entry(
        "SW-207",
        "The lag grows on a stream that drops its oldest",
        _WARNING,
        ("server",),
        "{stream}/{durable}: {pending} pending, {grown} more than {seconds:.1f} s ago",
        "What arrives faster than it is handled reaches a limit of the stream in the end; then the "
        "oldest goes, unread.",
        "start more workers; discard: new has the outbox keep what the stream has no room for",
    ),
    Entry(
        "SW-208",
        "The stream has less than it acknowledged",
        _CRITICAL,
        ("server", "database"),
        "{stream} ends at {last_seq}; event {event_id} was acknowledged at {place}",
        "The server has come back with an older state of its store. Sequences are given out a "
        "second time, and what was beyond its end has no effect anywhere until it is sent again.",
        "start a relay with outbox.heal on: it sends again what is missing (seaway relay)",
    ),
    Entry(
        "SW-209",
        "The stream was made anew",
        _CRITICAL,
        ("server", "database"),
        "{stream} was created {created}; event {event_id} was acknowledged {ago} before that",
        "What the stream had before is gone with it, also for consumers that had not read it yet.",
        "start a relay with outbox.heal on: it sends again what is missing (seaway relay)",
    ),
    Entry(
        "SW-210",
        "A stream is nearly full, and refuses",
        None,
        ("server",),
        "{message}",
        "With `discard: new` a full stream takes nothing more: events wait in the outbox.",
        "{next}",
        check="stream_full",
    ),
    Entry(
        "SW-211",
        "Subjects of a stream are full",
        None,
        ("server",),
        "{message}",
        "With `discard_new_per_subject` a full subject takes nothing more; its keys wait in the "
        "outbox.",
        "{next}",
        check="stream_subjects_full",
    ),
    Entry(
        "SW-212",
        "What a stream lost waits to be sent again",
        _WARNING,
        ("server", "database"),
        "{count} that {stream} had acknowledged and lost",
        "A relay has found that they are gone. They have no effect anywhere until it, or another "
        "one, has sent them again.",
        "run a relay (seaway relay); where one runs, its log says what it waits for",
    ),
    # ------------------------------------------------------------------ durables
    Entry(
        "SW-301",
        "A durable of the configuration is missing",
        None,
        ("server",),
        "{message}",
        "Its service gets nothing, and on a stream with interest retention its events are dropped.",
        "{next}",
        check="consumer",
    ),
    Entry(
        "SW-302",
        "ack_wait is shorter than a transaction takes",
        _WARNING,
        ("server", "processes"),
        "{stream}/{durable}: ack_wait is {ack_wait}, and a transaction took {slowest}"
        " ({average} a delivery by now, on {process})",
        "Seaway keeps what it has in hand alive, three times within ack_wait. A handler that "
        "blocks the event loop for as long stops that: the server gives the event to another "
        "process, both work on it, and one of them in vain.",
        "ack_wait above the slowest transaction ({wanted}), then seaway topology apply; or a "
        "smaller batch=",
    ),
    Entry(
        "SW-303",
        "max_ack_pending keeps workers idle",
        _WARNING,
        ("server", "processes"),
        "{stream}/{durable}: max_ack_pending is {most}, and {processes} could hold {room}"
        " (workers x batch)",
        "The server gives out no more than that to all processes together: the rest of the workers "
        "wait for acknowledgements of others.",
        "max_ack_pending: {room} for {durable}, then seaway topology apply; or fewer workers",
    ),
    Entry(
        "SW-304",
        "A durable stands beyond its stream's end",
        _CRITICAL,
        ("server",),
        "{stream}/{durable} stands at {place}, and {stream} ends at {last_seq}",
        "The stream lost its tail and the durable's state did not. The next events get sequences "
        "that it takes for delivered, and passes over without a word.",
        "restart its consumer: it sets the durable back, and the inbox skips what took effect",
    ),
    Entry(
        "SW-305",
        "A durable is paused",
        _ADVICE,
        ("server",),
        "{stream}/{durable} is paused until {until}, {pending} pending",
        "It is given nothing until then, however many processes ask.",
        "nats consumer resume {stream} {durable}",
    ),
    Entry(
        "SW-306",
        "A durable stands still",
        None,
        ("server",),
        "{message}",
        "It has something to do, and nothing is delivered or acknowledged.",
        "{next}",
        check="consumer_standstill",
    ),
    Entry(
        "SW-307",
        "Many messages are pending",
        None,
        ("server",),
        "{message}",
        "The consumer is behind: effects come late.",
        "{next}",
        check="stream_messages_pending",
    ),
    Entry(
        "SW-308",
        "Many messages are unacknowledged",
        None,
        ("server",),
        "{message}",
        "Handlers take long, or hang: what is in hand is kept from everybody else.",
        "{next}",
        check="consumer_ack_pending",
    ),
    Entry(
        "SW-309",
        "Many redeliveries",
        None,
        ("server",),
        "{message}",
        "Handlers fail and are tried again; what goes on failing becomes a letter.",
        "{next}",
        check="consumer_redelivery_count",
    ),
    Entry(
        "SW-310",
        "Given up without a letter",
        _CRITICAL,
        ("server", "database"),
        "{stream}/{durable} gave up on {count}, with neither effect nor letter, such as {event_id}",
        "The server delivers nothing more often than max_deliver. What it gave up on while no "
        "stream kept its advisory is on the stream, and nobody will look at it by himself.",
        "start the application with its sweeper (seaway run): it searches the stream and writes "
        "the letters",
    ),
    Entry(
        "SW-311",
        "Nobody writes letters for what the server gave up on",
        _WARNING,
        ("server", "processes"),
        "{count} of messages that were delivered too often, and no process has a sweeper",
        "A process that ends in the middle of an event, again and again, cannot write its letter. "
        "The sweeper of another does, out of the server's advisories, which last for seven days.",
        "run a process with its sweeper: seaway run module:app without --no-sweeper",
    ),
    # ------------------------------------------------------------------ outbox and relay
    Entry(
        "SW-401",
        "Events wait in the outbox",
        None,
        ("database",),
        "{message}",
        "They are committed and not published: consumers know nothing of them yet.",
        "{next}",
        check="outbox_age",
    ),
    Entry(
        "SW-402",
        "A process waits",
        None,
        ("processes",),
        "{message}",
        "It says so itself, and tries again; what it does not get holds up its events.",
        "{next}",
        check="waiting",
    ),
    Entry(
        "SW-403",
        "Events are parked",
        None,
        ("database",),
        "{message}",
        "They cannot be published as they are; the later events of their keys wait behind them.",
        "{next}",
        check="outbox_parked",
    ),
    Entry(
        "SW-404",
        "The outbox cannot be looked at",
        None,
        (),
        "{message}",
        "Writers, relays and consumers need this database as well.",
        "{next}",
        check="outbox",
    ),
    Entry(
        "SW-405",
        "Something was mended that nobody has seen",
        None,
        ("database",),
        "{message}",
        "Seaway sent events again, set a durable back, or wrote letters again, since a server had "
        "lost what it acknowledged. That server should be looked at.",
        "{next}",
        check="log",
    ),
    # ------------------------------------------------------------------ inbox
    Entry(
        "SW-501",
        "The inbox forgets before the stream does",
        _WARNING,
        (),
        "inbox.retention is {retention}, and {longer}",
        "An event that comes again after the inbox has forgotten it is handled again: its effect "
        "is there twice.",
        "leave inbox.retention out (it follows the streams), or set it to {wanted} or more",
    ),
    Entry(
        "SW-502",
        "Dead letters wait",
        None,
        ("server",),
        "{message}",
        "Each is an event without its effect.",
        "{next}",
        check="dead_letters",
    ),
    # ------------------------------------------------------------------ database
    Entry(
        "SW-601",
        "Tables are missing, or not upgraded",
        _CRITICAL,
        ("database",),
        "{message}",
        "Processes of this version do not start on them.",
        "seaway db upgrade",
    ),
    Entry(
        "SW-602",
        "The second phase of an upgrade is open",
        _ADVICE,
        ("database",),
        "not applied: {migrations}",
        "It removes what only processes of the version before needed.",
        "when none of them runs any more: seaway db upgrade --post",
    ),
    Entry(
        "SW-603",
        "Workers wait for connections",
        _WARNING,
        ("processes",),
        "{process} needs {needs} connections at the same time and has {connections}",
        "Each worker of an async consumer holds one while its handlers run. Those that get none "
        "wait, and so does the relay of the same process.",
        "fewer workers=, a process of its own for some of its consumers, or tx= with a larger pool "
        "of your own",
    ),
    Entry(
        "SW-604",
        "PostgreSQL runs out of connections",
        _WARNING,
        ("database",),
        "{used} of {most} connections are in use, and the processes here may take {wanted}",
        "Who gets none cannot commit: writers fail, relays and consumers pause.",
        "raise max_connections, put PgBouncer before it (?pgbouncer=true), or run fewer processes",
    ),
    Entry(
        "SW-605",
        "Dead rows are not vacuumed",
        _WARNING,
        ("database",),
        "{table} has about {dead} dead rows and {live} live ones",
        "Each look at the table reads them too: claims and vacuuming get slower and slower.",
        "see what holds vacuum back (SW-606), then VACUUM {table}",
    ),
    Entry(
        "SW-606",
        "A transaction has been open for long",
        _WARNING,
        ("database",),
        "pid {pid}, {who}, has a transaction open for {age}, {state}{writes}",
        "Nothing that was deleted since it began can be vacuumed. If it has written, relays read "
        "from its beginning on at each look, since it may have added events with low positions.",
        "have it end, or end it: SELECT pg_terminate_backend({pid})",
    ),
    Entry(
        "SW-607",
        "Days without a partition",
        _ADVICE,
        ("database",),
        "{table}: {count} of today and the next two days",
        "Rows of a day without a partition lie in the default one, and go row by row instead of at "
        "once.",
        "run a relay or an application: they make the days ahead, as does seaway db prune",
    ),
    Entry(
        "SW-608",
        "Rows lie in the default partition",
        _WARNING,
        ("database",),
        "{table}: {rows} of the days to come or of today are in its default partition",
        "While they lie there, their day cannot get a partition. No process was there to make it "
        "in time, or this user may not make tables.",
        "nothing is lost: they go row by row when their time has come; let the user of the relay "
        "own {table}, and a process run every two days at least",
    ),
    # ------------------------------------------------------------------ application
    Entry(
        "SW-701",
        "An event that no stream takes",
        _CRITICAL,
        ("application",),
        "{event}: no stream has a subject that takes it",
        "Its events wait in the outbox, and the later ones of their keys with them.",
        "add a stream for it to seaway.yaml (seaway topology plan --app shows the lines), then "
        "seaway topology apply",
    ),
    Entry(
        "SW-702",
        "A durable that no registered event reaches",
        _WARNING,
        ("application",),
        "{durable} takes {filters}, and none of the events of this application is of these",
        "Its handlers are never called: a filter is written wrong, or an event was renamed.",
        "mend filter_subject of {durable}, then seaway topology apply",
    ),
    Entry(
        "SW-703",
        "An event that no durable here handles",
        _ADVICE,
        ("application",),
        "{event}: no consumer of this application handles it",
        "It is published for others, or its handler was forgotten.",
        "register a handler, or leave it so (--skip SW-703)",
    ),
    # ------------------------------------------------------------------ rights
    Entry(
        "SW-801",
        "A process lacks a right",
        None,
        ("processes",),
        "{message}",
        "The server denies what it asks for, and it cannot go on without it.",
        "grant it: seaway permissions ROLE prints what each role needs",
        check="waiting",
    ),
    Entry(
        "SW-802",
        "A role lacks rights",
        _WARNING,
        ("role",),
        "as {role}, this user lacks: {lacks}",
        "Each of them is needed for some of the role's work, and is missed when it comes to that.",
        "seaway permissions {role}, and grant what it prints",
    ),
)

BY_CODE: Mapping[str, Entry] = {entry.code: entry for entry in ENTRIES}


def code_of(check: str, subject: str) -> str:
    """The code of what ``seaway check`` finds about ``subject``."""
    if check == "stream" and subject.startswith("SEAWAY"):
        return "SW-202"
    if check == "waiting" and subject.startswith("permissions/"):
        return "SW-801"
    codes = (entry.code for entry in ENTRIES if entry.check == check)
    return next(codes, "SW-001")
