"""``seaway outbox`` and ``seaway relay`` as a person uses them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings, load_settings
from seaway.embedded.nats_server import NatsServer

SEAWAY = (sys.executable, "-m", "seaway")
NOWHERE = "nats://127.0.0.1:1"


class Folder:
    """A folder with a ``seaway.yaml`` and an upgraded database, and ``seaway`` run inside it."""

    def __init__(self, path: Path, url: str, context: str) -> None:
        self.path = path
        self.context = context
        (path / "seaway.yaml").write_text(
            f'nats: {{url: "{url}"}}\ndatabase: "sqlite:///outbox.db"\ncontexts: [{context}]\n'
            "profile: development\nprofiles: {development: {replicas: 1}}\n"
        )
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NATS_", "SEAWAY_"))
        }

    def run(
        self, *arguments: str, code: int = 0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*SEAWAY, *arguments],
            cwd=self.path,
            env=self.env,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*SEAWAY, *arguments],
            cwd=self.path,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def file(self, name: str, lines: Sequence[object]) -> str:
        text = "".join(
            (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
        )
        (self.path / name).write_text(text, encoding="utf-8")
        return name

    def event(self, number: int, **more: object) -> dict[str, object]:
        subject = f"{self.context}.event.case_moved.v1"
        return {"subject": subject, "payload": {"n": number}, "key": f"case-{number % 3}", **more}

    def count(self) -> int:
        return int(self.json("outbox", "status")["count"])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Without any server."""
    made = Folder(tmp_path, NOWHERE, "sea")
    made.run("db", "upgrade")
    return made


@pytest.fixture
def served(tmp_path: Path, nats_server: NatsServer, context_name: str) -> Folder:
    """With a server, and streams once ``topology apply`` has run."""
    made = Folder(tmp_path, nats_server.url, context_name)
    made.run("db", "upgrade")
    return made


def rows_left(folder: Folder) -> int:
    with closing(sqlite3.connect(folder.path / "outbox.db")) as db:
        return int(db.execute("SELECT count(*) FROM seaway_outbox").fetchone()[0])


def poll_rows(folder: Folder, *, below: int) -> None:
    """Until fewer rows than that are left; at once where there are none."""
    deadline = time.monotonic() + 20
    while below and rows_left(folder) >= below:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def poll_first_row(folder: Folder) -> None:
    deadline = time.monotonic() + 20
    while rows_left(folder) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def limit(folder: Folder, max_msg_size: int) -> None:
    """Change the stream behind Seaway's back."""

    async def change() -> None:
        url = load_settings(folder.path / "seaway.yaml", environ={}).nats.url
        broker = await connect(NatsSettings(url=url))
        try:
            info = await broker.admin.stream(f"{folder.context.upper()}_EVENTS")
            assert info is not None
            await broker.admin.update_stream({**info.config, "max_msg_size": max_msg_size})
        finally:
            await broker.close()

    asyncio.run(change())


def test_add_writes_every_line_and_status_says_so(folder: Folder) -> None:
    name = folder.file("events.jsonl", [folder.event(n) for n in range(2500)])
    assert folder.json("outbox", "add", name) == {"added": 2500}
    status = folder.json("outbox", "status")
    assert (status["count"], status["parked"]) == (2500, 0)
    assert status["oldest_age_seconds"] >= 0
    first = folder.json("outbox", "list", "--limit", "2")
    assert [entry["key"] for entry in first] == ["case-0", "case-1"]
    assert first[0]["event_id"] in folder.run("outbox", "list").stdout


def test_add_reads_stdin(folder: Folder) -> None:
    lines = "".join(json.dumps(folder.event(n)) + "\n" for n in range(3))
    folder.run("outbox", "add", "-", input=lines + "\n")
    assert folder.count() == 3


def test_a_bad_line_is_named_and_nothing_of_its_batch_is_written(folder: Folder) -> None:
    good = [folder.event(n) for n in range(14)]
    subject = folder.event(0)["subject"]
    # Refused by the parser, by the outbox for its subject, and for its size.
    for bad, word in (
        ({"subject": subject, "payload": 1, "kex": "a"}, "kex"),
        ({"subject": "sea..v1", "payload": 1}, "sea..v1"),
        ({"subject": subject, "payload": "x" * 2_000_000}, "bytes"),
    ):
        name = folder.file("events.jsonl", [*good, bad, folder.event(15)])
        begin = "11" if folder.count() else "1"
        said = folder.run(
            "outbox", "add", name, "--batch", "10", "--from-line", begin, code=2
        ).stderr
        assert "events.jsonl:15" in said
        assert word in said
        assert "--from-line 11" in said
        assert folder.count() == 10
    folder.file("events.jsonl", [*good, folder.event(14), folder.event(15)])
    folder.run("outbox", "add", name, "--batch", "10", "--from-line", "11")
    assert folder.count() == 16


def test_an_id_that_is_there_already_is_named(folder: Folder) -> None:
    known = "0192f0c1-2d3e-7000-8000-000000000001"
    name = folder.file("events.jsonl", [folder.event(1, id=known)])
    folder.run("outbox", "add", name)
    assert known in folder.run("outbox", "add", name, code=2).stderr
    twice = folder.file(
        "twice.jsonl", [folder.event(1), *[folder.event(2, id=known[:-1] + "2")] * 2]
    )
    assert "twice.jsonl:3" in folder.run("outbox", "add", twice, code=2).stderr
    assert folder.count() == 1


def test_a_missing_file_and_a_bare_database_are_said(folder: Folder) -> None:
    assert "nothing.jsonl" in folder.run("outbox", "add", "nothing.jsonl", code=2).stderr
    (folder.path / "outbox.db").unlink()
    assert "seaway db upgrade" in folder.run("outbox", "status", code=2).stderr


def test_retry_wants_ids_or_all(folder: Folder) -> None:
    folder.run("outbox", "retry", code=2)
    folder.run("outbox", "retry", "0192f0c1-2d3e-7000-8000-000000000001", code=1)
    assert folder.json("outbox", "retry", "--all") == {"unparked": 0}


@pytest.mark.server
def test_drain_publishes_and_exits_0(served: Folder) -> None:
    served.run("topology", "apply")
    name = served.file("events.jsonl", [served.event(n) for n in range(1200)])
    served.run("outbox", "add", name)
    summary = served.json("relay", "--drain")
    assert (summary["sent"], summary["left"]) == (1200, 0)
    stream = served.json("stream", "info", f"{served.context.upper()}_EVENTS")
    assert stream["state"]["messages"] == 1200


@pytest.mark.server
def test_a_killed_relay_neither_loses_nor_repeats(served: Folder) -> None:
    served.run("topology", "apply")
    name = served.file("events.jsonl", [served.event(n) for n in range(6000)])
    served.run("outbox", "add", name)
    for _ in range(3):
        before = rows_left(served)
        relay = served.spawn("relay")
        try:
            poll_rows(served, below=before)
        finally:
            relay.send_signal(signal.SIGKILL)
            relay.communicate(timeout=20)
    assert served.json("relay", "--drain")["left"] == 0
    stream = served.json("stream", "info", f"{served.context.upper()}_EVENTS")
    assert stream["state"]["messages"] == 6000


@pytest.mark.server
def test_parked_events_are_named_and_can_be_retried(served: Folder) -> None:
    served.run("topology", "apply")
    event = served.event(1)
    other = f"{served.context}.event.case_moved.v1"
    name = served.file("events.jsonl", [event, {"subject": other, "payload": "x" * 5000}])
    served.run("outbox", "add", name)
    limit(served, 1024)
    done = served.run("relay", "--drain", code=1)
    [parked] = served.json("outbox", "list", "--parked")
    assert parked["event_id"] in done.stderr
    limit(served, -1)
    assert served.json("outbox", "retry", parked["event_id"]) == {"unparked": 1}
    assert served.json("relay", "--drain")["sent"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--drain",), 130)])
def test_a_relay_without_a_server_says_so_and_ends_on_a_signal(
    folder: Folder, options: Sequence[str], code: int, number: signal.Signals
) -> None:
    """What was to be drained was not."""
    relay = folder.spawn("relay", *options)
    assert relay.stderr is not None
    said = ""
    while "no NATS server answers" not in said:
        line = relay.stderr.readline()
        assert line, said
        said += line
    relay.send_signal(number)
    _, rest = relay.communicate(timeout=20)
    assert relay.returncode == code
    assert "Traceback" not in rest


def test_ctrl_c_ends_an_add_that_waits_for_its_input(folder: Folder) -> None:
    adding = folder.spawn("outbox", "add", "-", "--batch", "1")
    assert adding.stdin is not None
    adding.stdin.write(json.dumps(folder.event(1)) + "\n")
    adding.stdin.flush()
    poll_first_row(folder)
    adding.send_signal(signal.SIGINT)
    _, said = adding.communicate(timeout=20)
    assert adding.returncode == 130
    assert "Traceback" not in said
    assert folder.count() == 1


def wrong(folder: Folder, subject: str = "shp.event.case_moved.v1") -> str:
    """A parked event; its id."""
    name = folder.file("wrong.jsonl", [folder.event(0, subject=subject, key="case-0")])
    folder.run("outbox", "add", name, "--any-subject")
    event_id = str(folder.json("outbox", "list")[-1]["event_id"])
    with closing(sqlite3.connect(folder.path / "outbox.db")) as db, db:
        db.execute(
            "UPDATE seaway_outbox SET attempts = 10, last_error = 'SHP_EVENTS does not exist', "
            "parked_at = added_at WHERE event_id = ?",
            (event_id,),
        )
    return event_id


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("shp.event.case_moved.v1", "did you mean the context shop?"),
        ("banking.event.case_moved.v1", "contexts: shop, sea"),
        ("sea.event.case_lost.v1", "SEA_EVENTS takes only sea.event.case_moved.v1"),
    ],
)
def test_a_subject_that_no_stream_of_the_file_takes_is_refused(
    folder: Folder, subject: str, said: str
) -> None:
    (folder.path / "seaway.yaml").write_text(
        'database: "sqlite:///outbox.db"\n'
        "streams:\n"
        "  - {name: SHOP_EVENTS}\n"
        "  - {name: SEA_EVENTS, subjects: [sea.event.case_moved.v1]}\n"
    )
    name = folder.file("events.jsonl", [folder.event(0), {"subject": subject, "payload": 1}])
    refused = folder.run("outbox", "add", name, code=2).stderr
    assert "events.jsonl:2" in refused
    assert said in refused
    assert "--any-subject" in refused
    assert folder.count() == 0
    assert folder.json("outbox", "add", name, "--any-subject") == {"added": 2}


def test_list_says_what_each_event_waits_for(folder: Folder) -> None:
    name = folder.file("events.jsonl", [folder.event(0)])
    folder.run("outbox", "add", name)
    [entry] = folder.json("outbox", "list")
    assert entry["waits_for"] == "no relay says that it runs: seaway relay"
    parked = wrong(folder)
    folder.run("outbox", "add", name)
    reasons = [entry["waits_for"] for entry in folder.json("outbox", "list")]
    assert reasons[1] == "SHP_EVENTS does not exist"
    assert reasons[2] == f"waits behind {parked}, the parked one of its key"


@pytest.mark.server
def test_list_says_what_the_relay_waits_for_before_anything_is_parked(served: Folder) -> None:
    name = served.file("events.jsonl", [served.event(0)])
    served.run("outbox", "add", name)
    relay = served.spawn("relay")
    try:
        deadline = time.monotonic() + 20
        while "does not exist" not in (served.json("outbox", "list")[0]["waits_for"] or ""):
            assert time.monotonic() < deadline
    finally:
        relay.terminate()
        relay.communicate(timeout=20)


@pytest.mark.server
def test_a_context_that_the_file_does_not_have_is_said_with_what_helps(served: Folder) -> None:
    with (served.path / "seaway.yaml").open("a") as file:
        file.write("outbox: {stream_grace: 1s}\n")
    near = f"{served.context}x"
    name = served.file("events.jsonl", [served.event(0, subject=f"{near}.event.case_moved.v1")])
    served.run("outbox", "add", name, "--any-subject")
    drained = served.run("relay", "--drain", code=1).stderr
    stream = f"{near.upper()}_EVENTS"
    help = (
        f"{stream} is not in seaway.yaml (did you mean {served.context}?): add it and run "
        "`seaway topology apply`, or `seaway outbox discard ID --why ...`"
    )
    assert f"relay paused for {stream} alone, other streams go on: {help}" in drained
    assert served.json("outbox", "list")[0]["waits_for"] == help
    assert "1 event is left in the outbox" in drained


def test_a_parked_event_is_given_up_with_a_reason_that_can_be_looked_up(folder: Folder) -> None:
    parked = wrong(folder)
    name = folder.file("events.jsonl", [folder.event(0)])
    folder.run("outbox", "add", name)
    waiting = folder.json("outbox", "list")[1]["event_id"]
    assert "--why" in folder.run("outbox", "discard", parked, code=2).stderr
    folder.run("outbox", "discard", parked, "--why", " ", "--yes", code=2)
    for command in (("discard", "--why", "a typo", "--yes"), ("retry",)):
        told = folder.run("outbox", *command, waiting, "nowhere", code=1).stderr
        assert f"{waiting} is not parked yet: it is after 10 refusals" in told
        assert "after 10m (stream_grace)" in told
        assert "nowhere is not in the outbox" in told
    unasked = folder.run("outbox", "discard", parked, "--why", "a typo", input="", code=1)
    assert "--yes" in unasked.stderr
    asked = folder.run("outbox", "discard", parked, "--why", "a typo", input="n\n", code=1)
    assert "Give up 1 event for good?" in asked.stderr
    assert folder.json("outbox", "list", "--discarded") == []
    told = folder.json("outbox", "discard", parked, "--why", "a typo", "--by", "ann", "--yes")
    assert [entry["event_id"] for entry in told] == [parked]
    [kept] = folder.json("outbox", "list", "--discarded")
    assert kept["event_id"] == parked
    assert kept["discarded"] == ("given up by ann: a typo (its error: SHP_EVENTS does not exist)")
    assert "given up by ann" in folder.run("outbox", "list", "--discarded").stdout
    [left] = folder.json("outbox", "list")
    assert (left["event_id"], left["waits_for"]) == (
        waiting,
        "no relay says that it runs: seaway relay",
    )
    folder.run("outbox", "discard", parked, "--why", "again", "--yes", code=1)
