"""``seaway dlq`` and ``seaway replay`` as a person at a terminal has them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from typer.testing import CliRunner

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.cli import app
from seaway.config import settings_from_mapping
from seaway.contracts import DeadLetterReason, Incoming, Message, Stored
from seaway.dead_letters import DeadLetters, Letter
from seaway.embedded.nats_server import NatsServer
from seaway.testing.drills.foreign import foreign_client

pytestmark = pytest.mark.server
SEAWAY = Path(sys.executable).with_name("seaway")
TIMEOUT = timedelta(seconds=5)
BY, NOTHING_LEFT = b"by-reference", "others were left out"
HOSTILE = "no \x1b]0;owned\x07 \x9b31m way"


Headers: TypeAlias = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Desk:
    """A server with a context, and ``seaway`` beside it."""

    def __init__(self, broker: JetStreamBroker, context: str, url: str, folder: Path) -> None:
        self.broker = broker
        self.context = context
        self.stream = f"{context.upper()}_EVENTS"
        self.redrives = f"{context.upper()}_REDRIVE"
        self.queue = f"{context.upper()}_DLQ"
        self.durable = f"case_mgmt__from_{context}"
        self.url = url
        self.folder = folder
        self.letters = DeadLetters(broker)
        (folder / "seaway.yaml").write_text(f"contexts: [{context}]\n")
        hidden = ("NATS_", "SEAWAY_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.env["COLUMNS"] = "400"

    async def open(self) -> None:
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": self.stream, "durable": self.durable}],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def run(self, *arguments: str, url: str | None = None, stdin: str = "") -> Ended:
        process = await asyncio.create_subprocess_exec(
            str(SEAWAY),
            "--server",
            url or self.url,
            *arguments,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):  # A dozen of them start at a time.
                out, err = await process.communicate(stdin.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())

    async def json(self, *arguments: str) -> Any:
        ended = await self.run(*arguments)
        assert ended.code == 0, ended
        return json.loads(ended.out)

    async def publish(self, *payloads: bytes) -> None:
        subject = f"{self.context}.event.case_created.v1"
        messages = [Message(subject, one, {"Nats-Msg-Id": uuid.uuid4().hex}) for one in payloads]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes)

    async def take(self, stream: str) -> Incoming:
        async with self.broker.subscribe(stream, self.durable) as source:
            [incoming] = await source.next(1, timeout=TIMEOUT)
            assert all(await source.ack(incoming))
        return incoming

    async def bury(self, *payloads: bytes) -> list[Letter]:
        await self.publish(*payloads)
        for _ in payloads:
            incoming = await self.take(self.stream)
            await self.letters.store(incoming, reason="poison", error=ValueError(HOSTILE))
        return await self.here()

    async def here(self) -> list[Letter]:
        found = await self.letters.list()
        return [one for one in found if one.stored.stream == f"{self.context.upper()}_DLQ"]


@pytest.fixture
async def desk(
    broker: JetStreamBroker, nats_server: NatsServer, context_name: str, tmp_path: Path
) -> Desk:
    made = Desk(broker, context_name, nats_server.url, tmp_path)
    await made.open()
    return made


def clean(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


async def test_looking_at_dead_letters(desk: Desk) -> None:
    payload = '{"name": "\\u001b[2J", "raw": "\x9b"}'.encode()
    [letter, _] = await desk.bury(payload, b"\xff\x00")
    listed, found, shown, details, binary = await asyncio.gather(
        desk.run("dlq", "ls", "--consumer", desk.durable),
        desk.json("dlq", "ls", "--json", "--subject", f"{desk.context}.event.>"),
        desk.run("dlq", "show", letter.id),
        desk.json("dlq", "show", letter.event_id, "--json"),
        desk.run("dlq", "show", f"{letter.stored.stream}:2"),
    )
    assert (listed.code, listed.err) == (0, "")
    for word in (letter.id, desk.durable, "poison", "ValueError: no"):
        assert word in listed.out
    assert clean(listed.out)
    assert [one["id"] for one in found] == [letter.id, f"{letter.stored.stream}:2"]
    assert found[0]["failed_at"].endswith("Z")
    assert shown.code == 0
    assert clean(shown.out), "nothing that a terminal obeys"
    assert "\\x9b" in shown.out
    assert "stack:" in shown.out
    assert f"payload ({len(payload)} bytes)" in shown.out
    assert details["payload"] == json.loads(payload)
    assert "ff 00" in binary.out


NASTY = "\x1b]0;owned\x07\x9b31m\u202e\x7f".encode()


def forged(desk: Desk, subject: str, **change: bytes) -> tuple[bytes, bytes, Headers]:
    """A letter as a consumer of the context writes it, but for what is changed."""
    said = {
        "X-Event-Id": b"forged",
        "X-Dlq-Stream": desk.stream.encode(),
        "X-Dlq-Stream-Sequence": b"999",
        "X-Dlq-Consumer": desk.durable.encode(),
        "X-Dlq-Deliveries": b"1",
        "X-Dlq-Reason": b"poison",
        "X-Dlq-Failed-At": b"2026-11-28T10:00:00Z",
        **{name.replace("_", "-"): value for name, value in change.items()},
    }
    pairs = [(name.encode(), value) for name, value in said.items()]
    return f"{desk.context}.dlq.{subject}".encode(), b'"' + NASTY + b'"', pairs


async def test_a_letter_of_any_kind_can_be_shown_and_discarded(desk: Desk) -> None:
    """Somebody else's are said to be; nothing of them is obeyed by a terminal or by the server."""
    event, stream = f"{desk.context}.event.case_created.v1", desk.stream.encode()
    await desk.publish(b"honest")
    kinds: list[tuple[str, tuple[bytes, bytes, Headers]]] = [
        ("is not the subject of an event", forged(desk, f"$JS.API.STREAM.PURGE.{desk.stream}")),
        ("is not the subject of an event", forged(desk, "bank.event.paid.v1")),
        ("no stream of", forged(desk, event, X_Dlq_Stream=b"BANK_EVENTS", X_Dlq_Payload=BY)),
        ("no durable's name", forged(desk, event, X_Dlq_Consumer=NASTY)),
        ("is none of poison", forged(desk, event, X_Dlq_Reason=NASTY)),
        ("X-Event-Id", forged(desk, event, X_Event_Id=b"")),
        ("it has no X-Dlq-Stream", (f"{desk.context}.dlq.x".encode(), NASTY, [(b"A", NASTY)])),
        (
            "holds another event",
            forged(desk, event, X_Dlq_Stream_Sequence=b"1", X_Dlq_Payload=BY),
        ),
        ("nobody receives redrives", forged(desk, event, X_Dlq_Consumer=b"other__one")),
        (
            "does not hold it any more",
            forged(desk, event, X_Dlq_Headers=BY, X_Dlq_Error=NASTY, X_Dlq_Error_Stack=NASTY),
        ),
        ("", forged(desk, event + ".~" + NASTY.decode()[0], X_Dlq_Subject=NASTY, X_Note=NASTY)),
        (NOTHING_LEFT, forged(desk, event, X_Dlq_Stream=stream, X_Dlq_Headers=b"left-out")),
    ]
    async with foreign_client(desk.url) as stranger:
        places = [await stranger.put(*said) for _, said in kinds]
    assert all(places)
    queue = f"{desk.context.upper()}_DLQ"
    listed = await desk.run("dlq", "ls")
    assert (listed.code, clean(listed.out)) == (0, True)
    assert "is not the subject of an event" in listed.out
    found = await desk.run("dlq", "ls", "--json")
    assert clean(found.out)
    assert {f"{queue}:{place}" for place in places} <= {one["id"] for one in json.loads(found.out)}
    names = [f"{queue}:{place}" for place in places]
    problems = [problem for problem, _ in kinds]
    shown = await asyncio.gather(*(desk.run("dlq", "show", name) for name in names))
    for problem, one in zip(problems, shown, strict=True):
        assert (one.code, clean(one.out)) == (0, True), (problem, one)
    assert NOTHING_LEFT in shown[-1].out
    for name in (names[3], names[-2]):
        details = await desk.run("dlq", "show", name, "--json")
        assert (clean(details.out), json.loads(details.out)["id"]) == (True, name)
    dry = await desk.run("dlq", "redrive", *names, "--dry-run")
    assert (dry.code, clean(dry.out + dry.err)) == (0, True)
    assert len([line for line in dry.err.splitlines() if line.startswith("stays: ")]) == 11
    assert "1 would be redriven, 11 would stay" in dry.err
    for to in ("consumer", "all"):
        redriven = await desk.run("dlq", "redrive", *names[:-1], "--to", to)
        assert (redriven.code, clean(redriven.err)) == (1, True)
        stays = [line for line in redriven.err.splitlines() if line.startswith("stays: ")]
        assert "--to all" not in redriven.err
        for problem, line in zip(problems, stays, strict=False):
            assert problem in line
        assert len(stays) == len(names) - 1
    assert len([one async for one in desk.broker.admin.read(desk.stream)]) == 1
    gone = await desk.run("dlq", "discard", *names, "--yes")
    assert (gone.code, clean(gone.out)) == (0, True), gone
    assert await desk.here() == []


@pytest.mark.seaway_since("2.12", "messages that are sent later")
async def test_redriving_at_a_time_and_cancelling_that(desk: Desk) -> None:
    first, second, third = await desk.bury(b"1", b"2", b"3")
    (desk.folder / "fixed.json").write_bytes(b"33")
    refusals = {
        ("soon",): (2, "is no time"),
        ("2020-01-01T00:00:00Z",): (2, "is past: by the server's clock it is"),
        ("500d",): (1, "is more than a year from now"),
        ("6h", "--to", "all"): (2, "cannot be sent to all consumers"),
    }
    redriven = (desk.run("dlq", "redrive", first.id, "--at", *said) for said in refusals)
    ended = await asyncio.gather(*redriven, desk.run("dlq", "cancel"))
    for one, (code, why) in zip(ended, [*refusals.values(), (2, "nothing is sel")], strict=True):
        assert (one.code, why in one.err) == (code, True), one
    assert len(await desk.here()) == 3

    later, fixed = await asyncio.gather(
        desk.run("dlq", "redrive", first.id, second.id, "--at", "tomorrow 06:00"),
        desk.run("dlq", "redrive", third.id, "--payload", "fixed.json", "--at", "in 400h"),
    )
    assert (later.code, fixed.code) == (0, 0), (later, fixed)
    assert "2 to be redriven at" in later.err
    assert await desk.here() == []
    found, listed = await asyncio.gather(
        desk.json("dlq", "ls", "--scheduled", "--json"), desk.run("dlq", "ls", "--scheduled")
    )
    assert [one["event_id"] for one in found][2] == third.event_id, "the next one first"
    assert {one["event_id"] for one in found[:2]} == {first.event_id, second.event_id}
    assert (found[0]["reason"], found[0]["at"]) == ("poison", found[1]["at"])
    assert found[0]["id"].startswith(desk.redrives)
    assert (listed.code, clean(listed.out)) == (0, True)
    assert "ValueError: no" in listed.out

    gone = await desk.run("dlq", "cancel", first.event_id, found[2]["id"])
    assert gone.code == 0, gone
    assert "2 cancelled" in gone.err
    letters = {one.event_id: one for one in await desk.here()}
    assert set(letters) == {first.event_id, third.event_id}
    for letter in letters.values():
        assert letter.id in gone.out
        assert (letter.reason, letter.problem, letter.place[0]) == ("poison", "", desk.stream)
    assert await desk.letters.payload(letters[third.event_id]) == b"3", "its own again"
    twice, rest = await asyncio.gather(
        desk.run("dlq", "cancel", first.event_id), desk.json("dlq", "ls", "--scheduled", "--json")
    )
    assert (twice.code, "sent, or cancelled before" in twice.err) == (1, True)
    assert [one["event_id"] for one in rest] == [second.event_id]
    for letter in letters.values():
        await desk.letters.redrive(letter)
        assert (await desk.take(desk.redrives)).event_id == letter.event_id


async def test_redriving(desk: Desk) -> None:
    first, second, third = await desk.bury(b"1", b"2", b"3")
    dry = await desk.run("dlq", "redrive", first.id, third.event_id, "--dry-run")
    assert dry.code == 0
    assert first.id in dry.out
    assert "2 would be redriven" in dry.err
    assert len(await desk.here()) == 3
    [told] = await desk.json("dlq", "redrive", first.id, "--json")
    assert told["id"] == first.id
    incoming = await desk.take(desk.redrives)
    assert (incoming.event_id, incoming.message.payload) == (first.event_id, b"1")

    (desk.folder / "fixed.json").write_bytes(b'{"n": 2}')
    fixed = await desk.run("dlq", "redrive", second.event_id, "--payload", "fixed.json")
    assert fixed.code == 0, fixed
    incoming = await desk.take(desk.redrives)
    assert (incoming.event_id, incoming.message.payload) == (second.event_id, b'{"n": 2}')

    rest = await desk.run(
        "dlq", "redrive", "--consumer", desk.durable, "--to", "all", "--rate", "50"
    )
    assert (rest.code, "1 redriven" in rest.err) == (0, True)
    assert (await desk.take(desk.stream)).event_id == third.event_id
    assert await desk.here() == []


async def test_a_letter_that_cannot_be_redriven_stays_and_is_named(desk: Desk) -> None:
    [letter] = await desk.bury(b"{}")
    await desk.broker.admin.delete_consumer(desk.redrives, desk.durable)
    ended = await desk.run("dlq", "redrive", "--consumer", desk.durable)
    assert ended.code == 1
    assert letter.id in ended.err
    assert "topology apply" in ended.err
    assert "0 redriven" in ended.err
    assert [one.id for one in await desk.here()] == [letter.id]


async def test_what_is_not_there_or_not_clear_changes_nothing(desk: Desk) -> None:
    [one, _] = await desk.bury(b"1", b"2")
    unknown = f"{one.stored.stream}:99"
    (desk.folder / "p").write_bytes(b"{}")
    cases: list[tuple[int, str, tuple[str, ...]]] = [
        (2, "nothing is selected", ("dlq", "redrive")),
        (1, unknown, ("dlq", "show", unknown)),
        (1, unknown, ("dlq", "redrive", one.id, unknown)),
        (2, "for one letter", ("dlq", "redrive", "--consumer", desk.durable, "--payload", "p")),
    ]
    for ended, (code, said, arguments) in zip(
        await asyncio.gather(*(desk.run(*arguments) for _, _, arguments in cases)),
        cases,
        strict=True,
    ):
        assert (ended.code, ended.out) == (code, ""), (arguments, ended)
        assert said in ended.err, (arguments, ended)
        assert len(ended.err.splitlines()) == 1, (arguments, ended)
    assert len(await desk.here()) == 2


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("missing.json", ("redrive", "SEA_DLQ:1", "--payload", "missing.json")),
        ("neither consumer nor all", ("redrive", "SEA_DLQ:1", "--to", "me")),
        ("none of poison", ("ls", "--reason", "bad")),
        ("neither a time nor an age", ("ls", "--since", "yesterday")),
        ("invalid token", ("ls", "--subject", "sea..x")),
        ("'amount>1' is no condition", ("redrive", "--where", "amount>1")),
        ("neither oldest nor newest", ("ls", "--sort", "size")),
        ("--after is for a list of letters", ("ls", "--group", "--after", "SEA_DLQ:1")),
    ],
)
def test_usage(said: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWAY_CONFIG", "nowhere.yaml")
    ended = CliRunner().invoke(app, ["dlq", *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert said in ended.stderr


async def test_causes_and_the_letters_of_one(desk: Desk) -> None:
    await desk.bury(*(b'{"amount": %d}' % number for number in range(3)))
    await desk.publish(b'{"amount": 3}')
    incoming = await desk.take(desk.stream)
    await desk.letters.store(incoming, reason="exhausted", error=KeyError("owner"))
    async with foreign_client(desk.url) as stranger:
        subject = f"{desk.context}.dlq.{desk.context}.event.case_created.v1"
        assert await stranger.put(subject.encode(), b'{"amount": 4}')
    grouped, causes = await asyncio.gather(
        desk.run("dlq", "ls", "--group"), desk.json("dlq", "ls", "--group", "--json")
    )
    assert [(one["error_type"], one["count"], one["consumers"]) for one in causes] == [
        ("ValueError", 3, {desk.durable: 3}),
        ("KeyError", 1, {desk.durable: 1}),
        ("it has no X-Dlq-Stream", 1, {}),
    ]
    assert (grouped.code, "5 letters, 3 causes" in grouped.err) == (0, True)
    for one, line in zip(causes, grouped.out.splitlines()[1:], strict=True):
        for text in (one["cause"], one["sample"], one["error_type"], "case_created.v1"):
            assert text in line
    cause = causes[0]["cause"]
    first, rest, newest, dry, foreign = await asyncio.gather(
        desk.run("dlq", "ls", "--cause", cause, "--limit", "2"),
        desk.json("dlq", "ls", "--cause", cause, "--after", f"{desk.queue}:2", "--json"),
        desk.json("dlq", "ls", "--sort", "newest", "--limit", "1", "--json"),
        desk.run("dlq", "redrive", "--cause", cause, "--where", "payload.amount>0", "--dry-run"),
        desk.run("dlq", "redrive", "--reason", "foreign", "--dry-run", "--to", "all"),
    )
    assert len(first.out.splitlines()) == 3
    assert f"More: --after {desk.queue}:2 (5 letters in all)" in first.err
    assert [one["id"] for one in rest] == [f"{desk.queue}:3"]
    assert [(one["id"], one["foreign"]) for one in newest] == [(f"{desk.queue}:5", True)]
    assert "2 would be redriven" in dry.err
    assert "1 would be redriven" in foreign.err
    shown = await desk.run("dlq", "show", f"{desk.queue}:5")
    assert "It can be shown, discarded and redriven --to all." in shown.out
    sent = await desk.run("dlq", "redrive", "--reason", "foreign", "--to", "all")
    assert (sent.code, "1 redriven" in sent.err) == (0, True), sent
    elsewhere = await desk.run("dlq", "ls", "--after", "OTHER_DLQ:1")
    assert (elsewhere.code, f"no letter of these queues: {desk.queue}" in elsewhere.err) == (
        2,
        True,
    )


async def test_discarding_asks_first_and_says_where_it_is_for_good(desk: Desk) -> None:
    """Without a database at hand."""
    first, second = await desk.bury(b"1", b"2")
    refused = await desk.run("dlq", "discard", first.id, stdin="n\n")
    assert refused.code == 1
    assert "for good: without the database nothing is kept" in refused.err
    assert len(await desk.here()) == 2
    done = await desk.run("dlq", "discard", first.id, "--yes")
    assert (done.code, "1 discarded" in done.err) == (0, True)
    assert "For good: without the database" in done.err
    assert "restore brings" not in done.err
    assert [one.id for one in await desk.here()] == [second.id]


async def test_who_waits_behind_a_letter_is_shown_and_goes_with_it(desk: Desk) -> None:
    await desk.publish(*(b"%d" % number for number in range(4)))
    for number in range(4):
        incoming = await desk.take(desk.stream)
        reason: DeadLetterReason = "parked" if number else "poison"
        await desk.letters.store(incoming, reason=reason, error=None)
    first, second, *_ = await desk.here()
    key = f"{desk.context}.event.case_created.v1"
    listed, shown, dry, waiting = await asyncio.gather(
        desk.run("dlq", "ls", "--consumer", desk.durable),
        desk.json("dlq", "ls", "--json", "--consumer", desk.durable),
        desk.run("dlq", "redrive", first.id, "--dry-run"),
        desk.json("dlq", "ls", "--json", "--consumer", desk.durable, "--reason", "parked"),
    )
    assert (listed.code, "BEHIND" in listed.out) == (0, True)
    assert [(one["key"], one["waiting"]) for one in shown] == [
        (key, 3),
        (key, 0),
        (key, 0),
        (key, 0),
    ]
    assert "3 behind it follow in order" in dry.out
    assert [one["reason"] for one in waiting] == ["parked"] * 3

    [told] = await desk.json("dlq", "redrive", first.id, "--json")
    assert told["waiting"] == 3
    assert len(await desk.here()) == 3, "the consumer releases them, one after the other"
    only = await desk.run("dlq", "discard", second.id, "--yes")
    assert "1 discarded" in only.err

    incoming = await desk.take(desk.redrives)
    await desk.letters.store(incoming, reason="poison", error=None)
    again = await desk.letters.get(first.event_id)
    kept = await desk.run("dlq", "discard", again.id, "--with-waiting", stdin="n\n")
    assert (kept.code, "Remove 3 dead letters" in kept.err) == (1, True)
    gone = await desk.run("dlq", "discard", again.id, "--with-waiting", "--yes")
    assert "3 discarded" in gone.err
    assert gone.out.splitlines()[-1].startswith(again.id), "last, or the others would be free to go"
    assert await desk.here() == []


async def test_a_server_that_is_away(desk: Desk) -> None:
    for ended in await asyncio.gather(
        desk.run("dlq", "ls", url="nats://127.0.0.1:1"),
        desk.run("replay", "--context", "sea", url="nats://127.0.0.1:1"),
    ):
        assert (ended.code, ended.out) == (3, "")
        assert len(ended.err.splitlines()) == 1


async def test_replay_prints_the_history_as_json_lines(desk: Desk) -> None:
    await desk.publish(b'{"n": 1}', b"\xff", '{"n": "é"}'.encode())
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    every, some, none, unknown = await asyncio.gather(
        desk.run("replay", "--context", desk.context),
        desk.run("replay", "--stream", desk.stream, "--from-seq", "2", "--limit", "1"),
        desk.run("replay", "--stream", desk.stream, "--subject", f"{desk.context}.event.x.v1"),
        desk.run("replay", "--stream", "NO_EVENTS", "--from", later),
    )
    lines = [json.loads(line) for line in every.out.splitlines()]
    assert [line["stream_seq"] for line in lines] == [1, 2, 3]
    assert [line.get("payload") for line in lines] == [{"n": 1}, None, {"n": "é"}]
    assert lines[1]["payload_base64"] == "/w=="
    assert len(lines[0]["foreign_id"]) == 32
    assert base64.b64decode(lines[0]["payload_base64"]) == b'{"n": 1}', "its blank too"
    assert [json.loads(line)["stream_seq"] for line in some.out.splitlines()] == [2]
    assert (none.code, none.out, none.err) == (0, "", "")
    assert (unknown.code, unknown.out) == (1, "")
    assert "NO_EVENTS" in unknown.err
    assert await desk.broker.admin.consumers(desk.stream) != []
    names = [info.durable for info in await desk.broker.admin.consumers(desk.stream)]
    assert names == [desk.durable], "a reader leaves nothing behind"


async def test_a_reader_that_has_enough_may_leave(desk: Desk) -> None:
    await desk.publish(*(b'{"n": "%s"}' % (b"x" * 400) for _ in range(1000)))
    process = await asyncio.create_subprocess_exec(
        str(SEAWAY),
        *("--server", desk.url, "replay", "--context", desk.context),
        cwd=desk.folder,
        env=desk.env,
        stdout=(pipe := os.pipe())[1],
        stderr=subprocess.PIPE,
    )
    os.close(pipe[1])
    with os.fdopen(pipe[0], "rb") as reader:
        assert json.loads(await asyncio.to_thread(reader.readline))["stream_seq"] == 1
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_what_was_discarded_is_listed_brought_back_and_told_who_did_it(desk: Desk) -> None:
    first, second = await desk.bury(b"1", b"\xff\x00")
    assert (await desk.run("db", "upgrade")).code == 0
    asked = await desk.run("dlq", "discard", first.id, stdin="n\n")
    assert "`seaway dlq restore` brings them back for 7d" in asked.err
    done = await desk.run(
        *("dlq", "discard", first.id, second.id, "--why", "a \x1b[2J test", "--by", "ann", "--yes")
    )
    assert "2 discarded" in done.err
    assert "seaway dlq restore brings them back until 20" in done.err
    assert await desk.here() == []

    shown = await desk.run("dlq", "ls", "--discarded")
    assert clean(shown.out)
    assert all(text in shown.out for text in (first.id, second.id, "ann", "test"))
    newest, oldest = await desk.json("dlq", "ls", "--discarded", "--json")
    assert {newest["id"], oldest["id"]} == {first.id, second.id}
    assert (newest["discarded_by"], newest["why"]) == ("ann", "a \x1b[2J test")
    wrong = await desk.run("dlq", "ls", "--discarded", "--reason", "poison")
    assert (wrong.code, "--discarded goes with" in wrong.err) == (2, True)

    back = await desk.run("dlq", "restore", second.event_id, "SEA_DLQ:999")
    assert (back.code, f"was {second.id}" in back.out) == (1, True)
    assert "there is no discarded letter SEA_DLQ:999" in back.err
    [letter] = await desk.here()
    assert (letter.payload, letter.event_id) == (b"\xff\x00", second.event_id)
    twice = await desk.run("dlq", "restore", second.id)
    assert (twice.code, f"{second.id} was restored 20" in twice.err) == (1, True)
    [found] = await desk.json("dlq", "restore", "--all", "--json")
    assert (found["was"], found["event_id"], found["error"]) == (first.id, first.event_id, None)

    log = await desk.json("dlq", "log", first.event_id, "--json")
    assert [one["action"] for one in log] == ["restored", "discarded"]
    assert "@" in log[0]["by"]
    assert (log[1]["by"], log[1]["detail"]["why"]) == ("ann", "a \x1b[2J test")
    shown = await desk.run("dlq", "log")
    assert clean(shown.out)
    assert [shown.out.count(word) for word in ("discarded", "restored")] == [1, 2]
    # Nobody has to be told of what he did.
    assert await desk.json("log", "list", "--unseen", "--json") == []
