"""What is wrong, out of what was gathered. Pure: a function for each code that only the doctor has;
what ``seaway check`` judges is taken over from its report.

Owns: thresholds and arithmetic. The words are ``table``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from seaway import naming
from seaway.config import format_duration
from seaway.contracts import ConsumerInfo, Notice, StreamInfo
from seaway.doctor.gather import Gathered
from seaway.doctor.streams import ages, dropped_in, max_age
from seaway.doctor.table import Weight, code_of
from seaway.headers import parse_time
from seaway.monitor import Finding, State
from seaway.topology import lacking_rights, rights
from seaway.words import counted, human_duration

_WEIGHTS = {
    State.OK: Weight.ADVICE,
    State.WARNING: Weight.WARNING,
    State.UNKNOWN: Weight.WARNING,
    State.CRITICAL: Weight.CRITICAL,
}
_LACKS: Mapping[tuple[int, int], str] = {
    (2, 14): "giving out again what was on its way",
    (2, 12): "atomic batches, retries that are put off and redrives at a time",
    (2, 11): "exclusive and paused durables",
    (2, 10): "several filters of a durable, compression, positions kept over a replacement",
}
_STOPPED = timedelta(seconds=30)
"""After that long PostgreSQL ends the session of a relay that says nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Above these is a finding."""

    clocks: timedelta = timedelta(seconds=1)
    history: timedelta = timedelta(hours=1)
    """How far back what a stream loses should be healed."""
    open_transaction: timedelta = timedelta(minutes=1)
    dead_rows: int = 100_000
    dead_rows_each: float = 10
    """For each live row."""
    connections: float = 0.9
    """Of those that there can be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A finding before it has its words. ``weight``: where its entry has none."""

    code: str
    subject: str
    values: Mapping[str, Any] = field(default_factory=dict)
    weight: Weight | None = None


Rule = Callable[[Gathered, Limits], Iterator[Seen]]


def judge(found: Gathered, limits: Limits | None = None) -> list[Seen]:
    """Everything that is wrong, by code."""
    limits = limits or Limits()
    seen = [one for rule in RULES for one in rule(found, limits)]
    return sorted(seen, key=lambda one: (one.code, one.subject))


# ------------------------------------------------------------------ what is judged elsewhere


def of_check(found: Gathered, _: Limits) -> Iterator[Seen]:
    """What ``seaway check`` says, but what the doctor knows better."""
    for one in found.report.told:
        code = code_of(one.check, one.subject)
        if code == "SW-404" and found.last.tables_unfit:
            yield Seen("SW-601", one.subject, {"message": one.message})
        elif not _known_better(one, found):
            values = {"message": one.message, "next": one.next_move}
            yield Seen(code, one.subject, values, _WEIGHTS[one.state])


def _known_better(one: Finding, found: Gathered) -> bool:
    if one.check == "server":
        # A role's own user may look at little: what was asked is what he lacks for his work.
        return one.state is State.OK or (found.last.server_denied and bool(found.roles))
    paused = {"/".join(c.key) for c in found.last.consumers if c.paused_until is not None}
    return one.check == "consumer_standstill" and one.subject in paused


# ------------------------------------------------------------------ the server


def old_server(found: Gathered, _: Limits) -> Iterator[Seen]:
    server = found.last.server
    if server is None or server.elsewhere or not server.release:
        return
    lacks = [what for since, what in _LACKS.items() if server.release < since]
    if lacks:
        since = ".".join(map(str, max(_LACKS)))
        values = {"version": server.version, "lacks": "; ".join(lacks), "since": since}
        yield Seen("SW-102", "nats", values)


def not_synced(found: Gathered, _: Limits) -> Iterator[Seen]:
    single = [one.name for one in _events(found) if one.replicas == 1 and one.storage == "file"]
    if found.sync and single:
        sync = human_duration(found.sync)
        yield Seen("SW-103", "nats", {"sync": sync, "streams": ", ".join(single)})


def clocks(found: Gathered, limits: Limits) -> Iterator[Seen]:
    for ours, clock in sorted(found.clocks.items()):
        if abs(clock.ahead) - clock.within > limits.clocks:
            values = {
                "ours": ours,
                "theirs": "this machine",
                "by": f"{abs(clock.ahead).total_seconds():.1f} s",
                "direction": "ahead of" if clock.ahead > timedelta() else "behind",
            }
            yield Seen("SW-104", ours, values)


# ------------------------------------------------------------------ streams


def duplicate_window(found: Gathered, _: Limits) -> Iterator[Seen]:
    resend = _STOPPED + found.settings.nats.request_timeout
    for one in _events(found):
        if one.duplicate_window < resend:
            window, after = format_duration(one.duplicate_window), format_duration(resend)
            yield Seen("SW-203", one.name, {"stream": one.name, "window": window, "resend": after})


def cannot_heal(found: Gathered, limits: Limits) -> Iterator[Seen]:
    outbox = found.settings.outbox
    heals = outbox.heal
    replicas = {one.name: one.replicas for one in found.settings.streams}
    replicas |= {one.name: one.replicas for one in _events(found)}
    single = sorted(name for name, count in replicas.items() if count == 1)
    if found.sync == timedelta(0):
        single = []  # What it acknowledges is on its disk.
    if not outbox.retention or not heals:
        why = "outbox.retention is 0: nothing that was sent is kept"
        why_not = why if not outbox.retention else "outbox.heal is off"
        way = "outbox.retention: 7d" if not outbox.retention else "outbox.heal: true"
        for name in single:
            values = {"stream": name, "why_not": why_not, "way": f"{way}, or replicas: 3"}
            yield Seen("SW-204", name, values)
    elif single and outbox.retention < limits.history:
        yield Seen("SW-205", "outbox", {"retention": format_duration(outbox.retention)})


def drops_unread(found: Gathered, _: Limits) -> Iterator[Seen]:
    for one, stream in _durables(found):
        if not one.num_pending or one.never_pulled or one.paused_until is not None:
            continue
        if (soon := dropped_in(one, stream, found.last.taken_at)) is not None:
            when, limit = soon
            yield _of(one, "SW-206", when=when, limit=limit, pending=one.num_pending)


def growing_lag(found: Gathered, _: Limits) -> Iterator[Seen]:
    before = {one.key: one for one in found.first.consumers}
    most = found.settings.alerts.stream_messages_pending
    for one, stream in _durables(found):
        earlier = before.get(one.key)
        if earlier is None or earlier.created != one.created or one.never_pulled:
            continue
        grown = one.num_pending - earlier.num_pending
        if grown > 0 and one.num_pending > most and ages(stream):
            values = {"pending": one.num_pending, "grown": grown, "seconds": found.apart}
            yield _of(one, "SW-207", **values)


def behind(found: Gathered, _: Limits) -> Iterator[Seen]:
    """Streams that have less than what the outbox knows that they acknowledged."""
    if found.vitals is None:
        return
    made_anew = found.vitals.sent_before
    for name, count in found.vitals.lost.items():
        yield Seen("SW-212", name, {"stream": name, "count": counted(count, "event")})
    for one in _events(found):
        last = found.vitals.last_sent.get(one.name)
        if (lost := made_anew.get(one.name)) is not None:
            ago = human_duration(parse_time(one.created) - lost.sent_at)
            values = {"created": one.created[:19] + "Z", "event_id": lost.event_id, "ago": ago}
            yield Seen("SW-209", one.name, {"stream": one.name, **values})
        elif last is not None and last.stream_seq > one.last_seq:
            ends: dict[str, Any] = {"stream": one.name, "last_seq": one.last_seq}
            ends |= {"event_id": last.event_id, "place": last.stream_seq}
            yield Seen("SW-208", one.name, ends)


# ------------------------------------------------------------------ durables


def short_ack_wait(found: Gathered, _: Limits) -> Iterator[Seen]:
    for one, _stream in _durables(found):
        slowest = max(_at_work(found, one), key=_slowest, default=None)
        if slowest is None or _slowest(slowest) <= one.ack_wait.total_seconds():
            continue
        yield _of(
            one,
            "SW-302",
            ack_wait=format_duration(one.ack_wait),
            slowest=_seconds(_slowest(slowest)),
            average=_seconds(slowest.figures.get("seconds", 0.0)),
            process=_process(slowest),
            wanted=_seconds(2 * _slowest(slowest)),
        )


def idle_workers(found: Gathered, _: Limits) -> Iterator[Seen]:
    for one, _stream in _durables(found):
        figures = [notice.figures for notice in _at_work(found, one)]
        if one.exclusive:
            figures = sorted(figures, key=_room)[-1:]
        room = int(sum(map(_room, figures)))
        if one.max_ack_pending is not None and room > one.max_ack_pending:
            processes = counted(len(figures), "process", "processes")
            yield _of(one, "SW-303", most=one.max_ack_pending, room=room, processes=processes)


def beyond_the_end(found: Gathered, _: Limits) -> Iterator[Seen]:
    later = {one.key: one for one in found.last.consumers}
    for one in found.first.consumers:
        stream, again = found.last.stream(one.stream), later.get(one.key)
        if stream is None or again is None or again.created != one.created:
            continue
        place = min(max(c.stream_seq, c.ack_floor) for c in (one, again))
        if place > stream.last_seq:
            yield _of(one, "SW-304", place=place, last_seq=stream.last_seq)


def paused(found: Gathered, _: Limits) -> Iterator[Seen]:
    for one in found.last.consumers:
        if one.paused_until is not None:
            until = f"{one.paused_until:%Y-%m-%dT%H:%M:%SZ}"
            yield _of(one, "SW-305", until=until, pending=one.num_pending)


def given_up(found: Gathered, _: Limits) -> Iterator[Seen]:
    for (stream, durable), ids in sorted(found.given_up.items()):
        values = {"count": counted(len(ids), "message"), "event_id": ids[0]}
        yield Seen(
            "SW-310", f"{stream}/{durable}", {"stream": stream, "durable": durable, **values}
        )


def no_sweeper(found: Gathered, _: Limits) -> Iterator[Seen]:
    if found.last.processes is None:
        return
    if any(one.part == "sweeper" and one.live for one in found.last.processes):
        return
    for one in found.last.consumers:
        if one.key == (naming.ADVISORY_STREAM, naming.SWEEPER_DURABLE) and one.num_pending:
            yield Seen(
                "SW-311", "sweeper", {"count": counted(one.num_pending, "advisory", "advisories")}
            )


# ------------------------------------------------------------------ inbox and database


def short_inbox(found: Gathered, _: Limits) -> Iterator[Seen]:
    settings, retention = found.settings, found.settings.inbox.retention
    if not retention:
        return  # For ever.
    limits = {one.name: one.max_age for one in settings.streams}
    limits |= {one.name: age for one in _events(found) if (age := max_age(one)) is not None}
    longest = max(limits, key=lambda name: limits[name] or timedelta.max, default="")
    age = limits.get(longest, retention)
    if not age or age > retention:
        kept = format_duration(age) if age else "for ever"
        longer = f"{longest} keeps events {kept} (max_age)"
    elif settings.outbox.retention > retention:
        kept = format_duration(settings.outbox.retention)
        longer = f"outbox.retention is {kept}: what is healed may be older"
    else:
        return
    wanted = format_duration(max(age, settings.outbox.retention)) if age else "0 (for ever)"
    values = {"retention": format_duration(retention), "longer": longer, "wanted": wanted}
    yield Seen("SW-501", "inbox", values)


def tables(found: Gathered, _: Limits) -> Iterator[Seen]:
    if found.last.tables_unfit or found.changes is None:
        return
    left = [f"{one.version:04d}_{one.name}" for one in found.changes if not one.applied]
    if left:
        yield Seen("SW-602", "tables", {"migrations": ", ".join(left)})


def pools(found: Gathered, _: Limits) -> Iterator[Seen]:
    for process, figures in sorted(_by_process(found).items()):
        needs, most = figures.get("needs", 0), figures.get("connections", 0)
        if most and needs > most:
            values = {"process": process, "needs": int(needs), "connections": int(most)}
            yield Seen("SW-603", process, values)


def server_connections(found: Gathered, limits: Limits) -> Iterator[Seen]:
    vitals = found.vitals
    if vitals is None or vitals.most_connections is None or vitals.connections is None:
        return
    each = _by_process(found).values()
    wanted = int(sum(min(one.get("needs", 0), one.get("connections", 0)) for one in each))
    used, most = vitals.connections, vitals.most_connections
    if max(used, wanted) > limits.connections * most:
        yield Seen("SW-604", "database", {"used": used, "most": most, "wanted": wanted})


def dead_rows(found: Gathered, limits: Limits) -> Iterator[Seen]:
    backlog = found.last.outbox
    if backlog is None:
        return
    for table, dead, live in (
        ("seaway_outbox", backlog.dead_rows, backlog.count),
        ("seaway_inbox", backlog.inbox_dead_rows, backlog.inbox_rows or 0),
        ("seaway_sent", backlog.sent_dead_rows, 0),
    ):
        if dead is not None and dead > max(limits.dead_rows, limits.dead_rows_each * live):
            yield Seen("SW-605", table, {"table": table, "dead": dead, "live": live})


def open_transaction(found: Gathered, limits: Limits) -> Iterator[Seen]:
    oldest = None if found.vitals is None else found.vitals.oldest
    if oldest is None or oldest.age <= limits.open_transaction:
        return
    values = {
        "pid": oldest.pid,
        "who": oldest.who or "without a name",
        "age": human_duration(oldest.age),
        "state": oldest.state or "unknown",
        "writes": ", and has written" if oldest.writes else "",
    }
    yield Seen("SW-606", f"pid {oldest.pid}", values)


def days(found: Gathered, _: Limits) -> Iterator[Seen]:
    if found.vitals is None:
        return
    for table, count in found.vitals.without_a_day.items():
        yield Seen("SW-607", table, {"table": table, "count": counted(count, "day")})
    for table, rows in found.vitals.misplaced.items():
        said = "1000 rows or more" if rows >= 1000 else counted(rows, "row")
        yield Seen("SW-608", table, {"table": table, "rows": said})


# ------------------------------------------------------------------ the application, and rights


def application(found: Gathered, _: Limits) -> Iterator[Seen]:
    declared = found.declared
    if declared is None:
        return
    settings, server = found.settings, found.last.server_error is None
    taken = [subject for one in settings.streams for subject in one.subjects]
    if server:
        taken = [subject for one in found.last.streams for subject in one.subjects]
    for event in declared.events:
        if not any(naming.covers(subject, event) for subject in taken):
            yield Seen("SW-701", event, {"event": event})
        if not any(handles(event) for handles in declared.consumers.values()):
            yield Seen("SW-703", event, {"event": event})
    filters = {one.durable: (one.stream, one.filters) for one in settings.consumers}
    filters |= {one.durable: (one.stream, one.filters) for one, _stream in _durables(found)}
    for durable, handles in declared.consumers.items():
        stream, wanted = filters.get(durable, ("", ()))
        if not wanted or handles(f"{naming.stream_context(stream)}.event.any_at_all.v1"):
            continue  # It takes all, or has a handler for all.
        if not any(naming.covers(one, event) for one in wanted for event in declared.events):
            yield Seen("SW-702", durable, {"durable": durable, "filters": ", ".join(wanted)})


def roles(found: Gathered, _: Limits) -> Iterator[Seen]:
    for role in found.roles if found.granted is not None else ():
        assert found.granted is not None
        lacks = lacking_rights(rights(found.settings, role), found.granted)
        if lacks:
            yield Seen("SW-802", role, {"role": role, "lacks": ", ".join(lacks)})


RULES: Sequence[Rule] = (
    of_check,
    old_server,
    not_synced,
    clocks,
    duplicate_window,
    cannot_heal,
    drops_unread,
    growing_lag,
    behind,
    short_ack_wait,
    idle_workers,
    beyond_the_end,
    paused,
    given_up,
    no_sweeper,
    short_inbox,
    tables,
    pools,
    server_connections,
    dead_rows,
    open_transaction,
    days,
    application,
    roles,
)


# ------------------------------------------------------------------ helpers


def _events(found: Gathered) -> Iterator[StreamInfo]:
    return (one for one in found.last.streams if naming.kind_of(one.name) == "events")


def _durables(found: Gathered) -> Iterator[tuple[ConsumerInfo, StreamInfo]]:
    """Those of event streams."""
    for one in found.last.consumers:
        stream = found.last.stream(one.stream)
        if stream is not None and naming.kind_of(one.stream) == "events":
            yield one, stream


def _of(one: ConsumerInfo, code: str, **values: Any) -> Seen:
    where = {"stream": one.stream, "durable": one.durable}
    return Seen(code, f"{one.stream}/{one.durable}", {**where, **values})


def _at_work(found: Gathered, one: ConsumerInfo) -> list[Notice]:
    part = f"consumer {one.durable}"
    said = found.last.processes or ()
    return [notice for notice in said if notice.part == part and notice.live and notice.figures]


def _slowest(notice: Notice) -> float:
    return notice.figures.get("slowest", 0.0)


def _room(figures: Mapping[str, float]) -> float:
    return figures.get("workers", 0) * figures.get("batch", 0)


def _by_process(found: Gathered) -> dict[str, Mapping[str, float]]:
    said = [one for one in found.last.processes or () if one.live and "needs" in one.figures]
    return {_process(one): one.figures for one in said}


def _process(notice: Notice) -> str:
    return notice.process.rpartition(":")[0] or notice.process


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s"
