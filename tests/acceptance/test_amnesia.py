"""A server that forgot what it had acknowledged: events come back, and an operator is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from seaway.embedded.nats_server import NatsServer
from shell import SEAWAY, busy

pytestmark = pytest.mark.server

EVENTS, KEPT = 1000, 500


async def test_events_that_a_server_forgot_are_there_again_until_seen(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    server = nats_server_own
    (tmp_path / "seaway.yaml").write_text(
        f'nats: {{url: "{server.url}"}}\ndatabase: "sqlite:///app.db"\ncontexts: [sea]\n'
        "profile: development\nprofiles: {development: {replicas: 1}}\n"
    )

    def seaway(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [*SEAWAY, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60 * busy(),
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def write(first: int, last: int) -> None:
        lines = [
            json.dumps({"subject": "sea.event.moved.v1", "payload": {"n": n}, "key": f"k{n % 9}"})
            for n in range(first, last)
        ]
        (tmp_path / "events.jsonl").write_text("\n".join(lines))
        seaway("outbox", "add", "events.jsonl")

    def on_stream() -> list[int]:
        lines = seaway("replay", "--stream", "SEA_EVENTS").splitlines()
        return [json.loads(line)["payload"]["n"] for line in lines]

    seaway("db", "upgrade")
    seaway("topology", "apply")
    write(0, KEPT)
    seaway("relay", "--drain")
    await server.stop()
    copy = tmp_path / "copy"
    shutil.copytree(server.directory / "jetstream", copy)
    await server.start()
    write(KEPT, EVENTS)
    seaway("relay", "--drain")
    seaway("check", "--sample", "0")

    await server.kill()
    shutil.rmtree(server.directory / "jetstream")
    shutil.copytree(copy, server.directory / "jetstream")
    await server.start()
    assert len(on_stream()) == KEPT
    seaway("relay", "--drain")
    found = on_stream()
    assert sorted(found) == list(range(EVENTS))
    for key in range(9):
        one = [n for n in found if n % 9 == key]
        assert one == sorted(one)

    told = seaway("check", "--sample", "0", code=1)
    assert f"SEA_EVENTS: healed {EVENTS - KEPT} events" in told
    [entry] = json.loads(seaway("log", "list", "--unseen", "--json"))
    assert (entry["action"], entry["about"], entry["detail"]["events"]) == (
        *("healed", "SEA_EVENTS", EVENTS - KEPT),
    )
    assert f"{KEPT + 1}" in seaway("log", "show", str(entry["entry"]))
    seaway("log", "show", "99", code=1)
    seaway("log", "seen", code=2)
    seaway("log", "seen", str(entry["entry"]))
    seaway("check", "--sample", "0")
    assert json.loads(seaway("log", "list", "--unseen", "--json")) == []
