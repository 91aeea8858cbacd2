"""Least rights by role: with its list a role does its whole work, and each entry is needed.

One server for all: each cell has an account of its own, with an administrator and one user whose
list lacks one entry. ``-s`` prints the matrix.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import Delivery, Poison, RawEvent, Retry, Seaway, topology
from seaway.brokers import jetstream
from seaway.brokers.jetstream import JetStreamBroker
from seaway.brokers.jetstream.wire import Frame, incoming_of
from seaway.cli.topology import as_server
from seaway.config import Settings, settings_from_mapping
from seaway.contracts import Broker, Incoming, KnownPlace, Message, Sent, Store, Stored
from seaway.dead_letters import DeadLetters, Releaser
from seaway.dead_letters.writing import write
from seaway.embedded.nats_server import NatsServer
from seaway.errors import NotPermitted
from seaway.events import new_event_id
from seaway.history.audit import Audit
from seaway.history.findings import Finding
from seaway.history.mending import Mender
from seaway.history.steering import forecast_pause, pause, resume
from seaway.inbox.places import LETTERS
from seaway.monitor import Database, Sampler, Station, Watch
from seaway.naming import ADVISORY_STREAM, MAX_DELIVERIES_PREFIX, OPERATOR, WATCHER, covers
from seaway.topology import Rights, lacking_rights, rights
from shell import SEAWAY, Shell, busy

pytestmark = pytest.mark.server

TIMEOUT = timedelta(seconds=5)
C = "case_mgmt__from_sea"
E, D, R = "SEA_EVENTS", "SEA_DLQ", "SEA_REDRIVE"
CASE = "sea.event.case.v1"
ROLES = ("relay", "consumer", "sweeper", "operator", "watcher", "topology")
EXCLUSIVE = frozenset({"consumer"})
NAMED_WITHIN_SECONDS = 10.0


def settings(role: str, **nats: Any) -> Settings:
    consumer: dict[str, Any] = {"stream": E, "durable": C, "ack_wait": "300ms", "max_deliver": 20}
    if role in EXCLUSIVE:
        consumer["exclusive"] = True
    if role == "consumer":
        # What a process had on its way comes by a rewind, not by itself before there is one.
        consumer["ack_wait"] = "30s"
    if role == "sweeper":
        consumer["max_deliver"] = 2
    if role == "watcher":
        consumer |= {"filter_subject": CASE, "ack_wait": "30s"}
    if role == "topology":
        consumer["max_waiting"] = 100
    stream = {"name": E, "replicas": 1, "storage": "memory", "duplicate_window": "2s"}
    stream["max_bytes"] = "1MB"  # Each account's share is set aside.
    mapping = {"nats": nats, "database": "sqlite:///sea.db"} if nats else {}
    return settings_from_mapping(
        {**mapping, "streams": [stream], "consumers": [consumer]}, environ={}
    )


@dataclass(frozen=True)
class Cell:
    """A role without one entry of its list; ``None``: with all of it."""

    role: str
    missing: str | None = None

    def __str__(self) -> str:
        return f"{self.role}-without-{self.missing or 'nothing'}"

    def rights(self) -> Rights:
        whole = rights(
            settings(self.role),
            self.role,
            parking=self.role == "consumer",
            audit=self.role == "watcher",
        )
        return Rights(
            whole.role,
            tuple(one for one in whole.publish if one != self.missing),
            tuple(one for one in whole.subscribe if one != self.missing) or ("nothing",),
            whole.inbox,
        )


def cells() -> Iterator[Cell]:
    for role in ROLES:
        yield Cell(role)
        whole = Cell(role).rights()
        for entry in (*whole.publish, *whole.subscribe):
            yield Cell(role, entry)


CELLS = list(cells())


def configuration() -> str:
    """As ``seaway permissions`` prints it, in an account for each cell."""
    accounts = []
    for number, cell in enumerate(CELLS):
        user = f"u{number}"
        block = as_server(cell.rights(), user).replace(f"${user.upper()}_PASSWORD", "pass")
        admin = f"{{user: adm{number}, password: pass}}"
        accounts.append(f"c{number} {{ jetstream: enabled, users: [ {admin}\n{block} ] }}")
    together = [
        as_server(rights(settings("relay"), role, audit=True), role).replace(
            f"${role.upper()}_PASSWORD", "pass"
        )
        for role in ROLES
    ]
    accounts.append("shared { jetstream: enabled, users: [ " + "\n".join(together) + " ] }")
    return "accounts {\n" + "\n".join(accounts) + "\n}"


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with pytest.MonkeyPatch.context():
        started = NatsServer(extra_config=configuration())
        started.launch()
        try:
            yield started
        finally:
            started.terminate()
            started.remove()


class Desk:
    """The administrator of one cell's account, and what is left for its user to do."""

    def __init__(self, broker: JetStreamBroker, cell: Cell, url: str, number: int) -> None:
        self.broker = broker
        self.cell = cell
        self.settings = settings(
            cell.role,
            url=url,
            user=f"u{number}",
            password="pass",
            inbox_prefix=cell.rights().inbox,
        )
        self.handled: list[str] = []
        self.app = Seaway(self.settings)

    async def set_up(self) -> None:
        wanted = topology.desired(self.settings)
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def publish(self, stream: str, *messages: Message) -> None:
        outcomes = await self.broker.publish(stream, messages, timeout=TIMEOUT)
        assert all(isinstance(outcome, Stored) for outcome in outcomes), outcomes

    async def take(self, stream: str, durable: str = C) -> Incoming:
        """One message by a pull that leaves nothing behind, as of a process that has died."""
        body: dict[str, Any] = {"batch": 1, "expires": 2 * 10**9}
        exclusive = self.cell.role in EXCLUSIVE
        if exclusive:
            body["group"] = "seaway"
        connection, inbox = self.broker._connection, self.broker._connection.new_inbox()
        came: asyncio.Queue[Frame] = asyncio.Queue()
        unsubscribe = await connection.subscribe(inbox, came.put_nowait)
        try:
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
            await connection.client.publish(subject, json.dumps(body).encode(), reply=inbox)
            frame = await came.get()
        finally:
            await unsubscribe()
        if exclusive:
            unpin = f"$JS.API.CONSUMER.UNPIN.{stream}.{durable}"
            await connection.request(unpin, b'{"group":"seaway"}')
        return incoming_of(frame)

    async def letter(self, event_id: str, *, by_reference: bool = False) -> None:
        """A letter of an event that is on the stream from now on."""
        await self.publish(E, event(event_id))
        info = await self.broker.admin.stream(E)
        assert info is not None
        found = await self.broker.admin.get(E, info.last_seq)
        assert found is not None
        incoming = Incoming.read(found, C, deliveries=1)
        room = 600 if by_reference else None
        if by_reference:
            incoming = Incoming.read(
                found.__class__(
                    Message(CASE, b"x" * 600, found.message.headers), E, found.stream_seq, NOW
                ),
                C,
                deliveries=1,
            )
        message = write(incoming, reason="poison", error=None, failed_at=NOW, room=room)
        await self.publish(D, message)

    async def messages(self, stream: str) -> int:
        info = await self.broker.admin.stream(stream)
        assert info is not None
        return info.messages

    def is_named(self) -> bool:
        """Whether the process says which right it lacks."""
        for wait in self.app.telemetry.waits:
            _, _, right = wait.about.partition(" ")
            if wait.part == "permissions" and covers(str(self.cell.missing), right):
                return True
        return False

    def nothing_is_denied(self) -> bool:
        return not [wait for wait in self.app.telemetry.waits if wait.part == "permissions"]

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Poll until it holds, or the missing right is named."""
        ends = time.monotonic() + NAMED_WITHIN_SECONDS * busy()
        while not self.is_named() and not await holds():
            assert time.monotonic() < ends, self.app.telemetry.waits
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def at_work(
        self, *, consumers: bool = False, sweeper: bool = False
    ) -> AsyncIterator[None]:
        """The user's application; it ends in time, whatever it lacks."""
        stop = asyncio.Event()
        work = asyncio.create_task(
            self.app.run(
                stop, relay=self.cell.role == "relay", consumers=consumers, sweeper=sweeper
            )
        )
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(NAMED_WITHIN_SECONDS * busy()):
                await work


NOW = datetime(2026, 11, 1, tzinfo=UTC)


def event(event_id: str, key: str = "") -> Message:
    headers = {"Nats-Msg-Id": event_id, "X-Ordering-Key": key or event_id}
    return Message(CASE, b'{"id":"%s"}' % event_id.encode(), headers)


# ------------------------------------------------------------------------------ the roles' work


async def relay(desk: Desk) -> None:
    """What was published before an outage is looked up, the rest is published."""
    await desk.publish(E, event("before"))
    app = desk.app
    async with app:
        store = await app.open_store()
        async with store.transaction() as tx:
            await app.outbox.add(tx.handle, *(RawEvent(CASE, b"{}", key=k) for k in "abc"))
        # Older than half of the duplicate window: its ids may be forgotten.
        await asyncio.sleep(1.1)
        async with desk.at_work():

            async def published() -> bool:
                return await desk.messages(E) == 4

            await desk.until(published)
            # One that an earlier attempt has stored.
            known = new_event_id()
            headers = {"Nats-Msg-Id": known, "X-Ordering-Key": "k", "X-Event-Version": "1"}
            headers["Content-Type"] = "application/json"
            await desk.publish(E, Message(CASE, b"{}", headers))
            async with store.transaction() as tx:
                await app.outbox.add(tx.handle, RawEvent(CASE, b"{}", key="k", event_id=known))

            async def settled() -> bool:
                return (await store.backlog()).count == 0

            await desk.until(settled)
            assert await desk.messages(E) in (4, 5)


async def consumer(desk: Desk) -> None:
    """Events, a poison one and what waits behind it; two on their way when a process died, and one
    that the durable would pass over."""
    app = desk.app
    app.consumer("case_mgmt", from_context="sea", on_failure="park").handler(RawEvent)(
        handler_of(desk)
    )
    await pass_over_one(desk)
    await desk.publish(E, event("flying"))
    await desk.publish(
        R, Message(f"sea.redrive.{C}.{CASE}", b"{}", {"Nats-Msg-Id": "r", "X-Event-Id": "redriven"})
    )
    for stream in (E, R):
        await desk.take(stream)
    await desk.letter("letter")
    async with app, desk.at_work(consumers=True), releasing(desk):
        await desk.publish(
            E, event("fine"), event("poison", "k"), event("behind", "k"), event("later")
        )

        async def parked() -> bool:
            return await desk.messages(D) == 3

        await desk.until(parked)
        for letter in await DeadLetters(desk.broker).list():
            if letter.event_id == "poison":
                await DeadLetters(desk.broker).discard(letter)

        async def all_handled() -> bool:
            events = {"passed over", "flying", "redriven", "letter", "fine", "behind"}
            return events <= set(desk.handled) and await desk.messages(R) == 1

        await desk.until(all_handled)


async def pass_over_one(desk: Desk) -> None:
    """As after its stream has lost what it was given last."""
    await desk.publish(E, event("known"), event("passed over"))
    known = await desk.broker.admin.get(E, 1)
    assert known is not None
    async with desk.app:
        store = await desk.app.open_store()
        await store.know(KnownPlace(C, E, 1, known.event_id, known.stored_at))
    async with desk.broker.subscribe(E, C) as own:
        await own.rewind(3)


def handler_of(desk: Desk) -> Callable[[RawEvent, Delivery], Awaitable[None]]:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "poison":
            raise Poison("no")
        if delivery.event_id == "later":
            raise Retry("not now", after=timedelta(hours=1))
        desk.handled.append(delivery.event_id)

    return handle


@asynccontextmanager
async def releasing(desk: Desk) -> AsyncIterator[None]:
    """The application's own looks every five seconds."""
    stop = asyncio.Event()
    store = await desk.app.open_store()
    work = asyncio.create_task(
        Releaser(
            desk.app.broker,
            store,
            consumer=C,
            stream=E,
            telemetry=desk.app.telemetry,
            every=timedelta(milliseconds=100),
        ).run(stop)
    )
    try:
        yield
    finally:
        stop.set()
        await work


async def sweeper(desk: Desk) -> None:
    """An event and a redrive whose last deliveries died with their processes; a letter that came
    back with its queue, though its event has taken effect."""
    desk.app.consumer("case_mgmt", from_context="sea").handler(RawEvent)(handler_of(desk))
    await desk.publish(E, event("lost"))
    await desk.publish(
        R, Message(f"sea.redrive.{C}.{CASE}", b"{}", {"Nats-Msg-Id": "r", "X-Event-Id": "again"})
    )
    await desk.publish(D, Message(f"sea.dlq.{CASE}", b"", {}))
    # What somebody else has put there under the id that the letter will have.
    found = await desk.broker.admin.get(E, 1)
    assert found is not None
    lost = Incoming.read(found, C, deliveries=2)
    letter = write(lost, reason="exhausted", error=None, failed_at=NOW)
    other = {**letter.headers, "X-Dlq-Consumer": "other__from_sea"}
    await desk.publish(D, Message(letter.subject, b"", other))
    done = Incoming.read(replace(found, message=event("done"), stream_seq=99), C, deliveries=1)
    await desk.publish(D, write(done, reason="poison", error=None, failed_at=NOW))
    async with desk.app as app:
        store = await app.open_store()
        async with store.transaction() as tx:
            await tx.claim(C, "done")
        await store.know(KnownPlace(LETTERS, D, 99, "lost", NOW))
    for stream in (E, R):
        for _ in range(2):
            await desk.take(stream)
        asking = asyncio.create_task(desk.take(stream))  # The server says so to who asks.
        ends = time.monotonic() + 5
        while await desk.messages(ADVISORY_STREAM) < (1 if stream == E else 2):
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    async with desk.app, desk.at_work(sweeper=True):

        async def swept() -> bool:
            info = await desk.broker.admin.consumer(ADVISORY_STREAM, "seaway__sweeper")
            assert info is not None
            settled = info.num_pending == info.num_ack_pending == 0
            gone = await desk.broker.admin.get(D, 3) is None
            return settled and gone and (await desk.messages(R), await desk.messages(D)) == (0, 4)

        await desk.until(swept)


async def operator(desk: Desk) -> None:
    """Letters are seen, redriven to one, to all and at a time, which is cancelled, discarded and
    brought back; history is read, a durable is paused and set back."""
    for event_id in ("one", "all", "gone", "later"):
        await desk.letter(event_id)
    await desk.letter("apart", by_reference=True)
    async with desk.app as app:
        letters = app.dead_letters
        assert len(await letters.list(payloads=False)) == 5
        assert await letters.payload(await letters.get("apart")) == b'{"id":"apart"}'
        await letters.redrive(await letters.get("one"))
        await letters.redrive(await letters.get("apart"))
        await letters.redrive(await letters.get("all"), to="all")
        assert await letters.discard(await letters.get("gone"))
        at = datetime.now(UTC) + timedelta(hours=1)
        await letters.redrive(await letters.get("later"), at=at)
        [waiting] = await letters.scheduled()
        cancelled = await letters.cancel(waiting)
        assert await letters.discard(await letters.get(cancelled.letter))
        assert await letters.list() == []
        assert len(await letters.restore("gone")) == 1
        assert await letters.discard(await letters.get("gone"), for_good=True)
        found = [one.event_id async for one in app.broker.admin.read(E)]
        assert found == ["one", "all", "gone", "later", "apart", "all"]
        assert await desk.messages(R) == 2
        until = datetime.now(UTC) + timedelta(hours=1)
        planned = await forecast_pause(app.broker.admin, desk.settings, E, C, until)
        await pause(app.broker.admin, None, planned, by="ann")
        assert await resume(app.broker.admin, None, E, C, by="ann")
        assert await app.broker.admin.reset_consumer(E, C)
        store = await compared(desk, OPERATOR)
        lacking = Finding(kind="no_effect", stream=E, consumer=C, event_id="gone", stream_seq=3)
        [mended] = [one async for one in Mender(app.broker, store).mend([lacking])]
        assert mended.done


async def watcher(desk: Desk) -> None:
    """All streams and durables are looked at, and what was redelivered is counted."""
    advisory = f"{MAX_DELIVERIES_PREFIX}.OTHER.x__y"
    others = {D: ("tool__archive", f"sea.dlq.{CASE}"), ADVISORY_STREAM: ("tool__watch", advisory)}
    for stream, (name, subject) in others.items():
        config = {"durable_name": name, "ack_policy": "explicit", "filter_subject": subject}
        await desk.broker.admin.create_consumer(stream, config)
    await desk.letter("letter")
    await desk.publish(E, Message("sea.event.other.v1", b"{}"))
    await desk.publish(ADVISORY_STREAM, Message(advisory, b"{}"))
    async with desk.app as app:

        async def connected() -> Broker:
            return app.broker

        watch = Watch.of(desk.settings)
        sampler = Sampler(Station("nats", connected), watch, every=timedelta(0))
        await sampler.sample()
        await desk.take(E)
        for stream, (name, _) in others.items():
            await desk.take(stream, name)
        sample = await sampler.sample()
        letters = DeadLetters(app.broker, reader=WATCHER, queues=[D])
        await letters.list(payloads=False)
        assert (await letters.get("letter")).payload
        assert sample.snapshot.server_error is None
        assert [*sample.snapshot.missing_streams, *sample.snapshot.missing_consumers] == []
        assert len(sample.snapshot.consumers) == 5
        redrive = Message(f"sea.redrive.{C}.{CASE}", b"{}", {"Nats-Msg-Id": "r"})
        await desk.publish(R, redrive)
        await compared(desk, WATCHER)


async def compared(desk: Desk, reader: str) -> Store:
    """As ``seaway audit`` does, and ``seaway serve --audit``: with an event that was sent and is
    not there."""
    app = desk.app
    store = await app.open_store()
    async with store.transaction() as tx:
        await app.outbox.add(tx.handle, RawEvent(CASE, b"{}"))
    async with store.lease() as lease:
        assert lease is not None
        [entry] = await lease.claim(1)
        await lease.settle([Sent(entry, E, 50)])

    async def connected() -> Broker:
        return app.broker

    async def opened() -> Database:
        return Database(store)

    stations = Station("nats", connected), Station("database", opened)
    report = await Audit(*stations, desk.settings, reader=reader).look()
    assert not report.away
    assert report.of("missing", E) == 1
    return store


async def arrange(desk: Desk) -> None:
    """All is made, changed, made anew where that is the only way, and lost where that is wanted."""
    async with desk.app as app:
        mine, admin = app.broker.admin, desk.broker.admin

        async def applied(wanted: topology.Topology, *, losing: bool = False) -> None:
            found = topology.plan(wanted, await topology.actual(mine, wanted))
            await topology.apply(found, mine, allow_data_loss=losing)
            again = topology.plan(wanted, await topology.actual(mine, wanted))
            assert again.empty

        wanted = topology.desired(desk.settings)
        await applied(wanted)
        for config in wanted.streams.values():
            await admin.update_stream({**config, "max_age": 3600 * 10**9})
        for (stream, durable), config in wanted.consumers.items():
            await admin.delete_consumer(stream, durable)
            drifted = {"max_waiting": 7} if "max_waiting" in config else {"ack_policy": "all"}
            await admin.create_consumer(stream, {**config, **drifted})
        await applied(wanted)
        files = {name: {**one, "storage": "file"} for name, one in wanted.streams.items()}
        await applied(topology.Topology(files, wanted.consumers), losing=True)


WORK: dict[str, Callable[[Desk], Awaitable[None]]] = {
    "relay": relay,
    "consumer": consumer,
    "sweeper": sweeper,
    "operator": operator,
    "watcher": watcher,
    "topology": arrange,
}


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_each_role_needs_its_list_and_no_more(
    server: NatsServer, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    number = CELLS.index(cell)
    admin = settings(cell.role, url=server.url, user=f"adm{number}", password="pass")
    broker = await jetstream.connect(admin.nats)
    desk = Desk(broker, cell, server.url, number)
    began = time.monotonic()
    try:
        if cell.role != "topology":
            await desk.set_up()
            await prepare_database(desk)
        try:
            await WORK[cell.role](desk)
            async with desk.app as app:
                granted = await app.broker.admin.granted()
                assert lacking_rights(cell.rights(), granted) == []
        except (NotPermitted, AssertionError) as error:
            if cell.missing is None or not desk.is_named():
                raise
            said = str(error) if isinstance(error, NotPermitted) else ""
        else:
            said = ""
        if cell.missing is None:
            assert desk.nothing_is_denied()
        else:
            assert desk.is_named(), "nothing named the missing right"
        print(f"{cell}: {time.monotonic() - began:.1f} s {said}")
    finally:
        await broker.close()


async def prepare_database(desk: Desk) -> None:
    from seaway.stores import open_configured

    store = await open_configured(desk.settings)
    await store.schema.upgrade()
    await store.close()


def test_looking_commands_work_with_the_rights_of_their_roles(
    server: NatsServer, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, server.url)
    stream = {"name": E, "replicas": 1, "storage": "memory", "max_bytes": "1MB"}
    content = {
        "nats": {"url": server.url},
        "database": "sqlite:///sea.db",
        "streams": [stream],
        "consumers": [{"stream": E, "durable": C}],
    }
    (tmp_path / "seaway.yaml").write_text(json.dumps(content))
    event_id = new_event_id()
    line = {"subject": CASE, "payload": {}, "id": event_id}
    (tmp_path / "events.jsonl").write_text(json.dumps(line))

    def by(role: str) -> list[str]:
        login = ["--user", role, "--password", "pass", "--inbox-prefix", f"_INBOX_{role}"]
        return [*SEAWAY, *login]

    shell.seaway("db", "upgrade")
    shell.run(*by("topology"), "topology", "apply")
    shell.seaway("outbox", "add", "events.jsonl")
    shell.run(*by("relay"), "relay", "--drain")
    commands: list[list[str]] = [
        [*by("operator"), "audit"],
        [*by("operator"), "trace", event_id],
        *([*by(role), "doctor", "--role", role, "--json"] for role in ("relay", "watcher")),
    ]
    for command in commands:
        code = None if "doctor" in command else 0
        ended = shell.ended(*command, code=code)
        if code is None:
            found = json.loads(ended.stdout)
            codes = {one["code"] for one in (*found["findings"], *found["not_examined"])}
            assert "SW-802" not in codes, found
            if "watcher" in command:
                assert "no permission" not in ended.stdout
        else:
            assert "permission" not in ended.stdout + ended.stderr
    with shell.running(*by("watcher"), "serve", "--audit", "--port", "0"):
        found = re.compile(r"http://127\.0\.0\.1:\d+")
        shell.until(lambda: found.search(shell.said()) is not None, "an address")
        address = found.search(shell.said())
        assert address is not None

        def metrics() -> str:
            with urllib.request.urlopen(f"{address[0]}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        shell.until(lambda: "seaway_audit_up_bool 1.0" in metrics(), "an audit")
        assert f'seaway_audit_missing_events{{stream="{E}"}} 0.0' in metrics()
        assert "permission" not in shell.said()
