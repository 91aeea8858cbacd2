"""``seaway doctor`` as its user runs it: reports in three forms, exit codes, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seaway.embedded.nats_server import NatsServer
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

APP = """
from dataclasses import dataclass

from seaway import Delivery, Seaway, event

app = Seaway.from_config("seaway.yaml")
sea = app.consumer("case_mgmt", from_context="sea")


@event(context="sea")
@dataclass
class CaseOpened:
    case_id: str


@event(context="lake")
@dataclass
class LakeFrozen:
    depth: int


@sea.handler(CaseOpened)
async def handle(event: CaseOpened, delivery: Delivery) -> None: ...
"""


def test_what_a_user_is_told(nats_server: NatsServer, tmp_path: Path) -> None:
    shell = Shell(tmp_path, nats_server.url)
    config = {
        "database": "sqlite:///app.db",
        "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
        "consumers": [{"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}],
    }
    (tmp_path / "seaway.yaml").write_text(json.dumps(config))
    (tmp_path / "shop.py").write_text(APP)
    shell.seaway("topology", "apply")
    shell.seaway("db", "upgrade")

    text = shell.seaway("doctor", "--app", "shop:app", code=1)
    assert "SW-701 critical An event that no stream takes\n" in text
    assert "  seen   lake.event.lake_frozen.v1: no stream has a subject that takes it\n" in text
    assert "SW-703 advice   An event that no durable here handles\n" in text
    assert text.splitlines()[-1].startswith("1 critical, 1 advice: ")

    skip = ("--skip", "SW-701", "--sample", "0")
    found = json.loads(shell.seaway("doctor", "--app", "shop:app", *skip, "--json"))
    assert [one["code"] for one in found["findings"]] == ["SW-703"]
    assert found["worst"] == "advice"
    assert found["skipped"] == ["SW-701"]
    assert {one["code"] for one in found["not_examined"]} == {"SW-103", "SW-802"}
    assert found["examined"] + 3 == len(set(everything(shell)))

    away = ("-s", "nats://127.0.0.1:1", "--database", f"sqlite:///{tmp_path}/none.db")
    text = shell.seaway(*away, "doctor", "--markdown", code=3)
    assert text.startswith("# seaway doctor\n")
    assert "## SW-101 The server is away" in text
    assert "| SW-304 | A durable stands beyond its stream's end | no NATS server answers" in text

    for given, said in (
        (("--skip", "SW-7o1"), "there is no finding 'SW-7o1' (did you mean SW-701?)"),
        (("--role", "boss"), "there is no role 'boss'"),
        (("--monitoring", "ftp://x"), "--monitoring 'ftp://x' is not an address"),
        (("--explain", "SW"), "there is no finding 'SW'"),
    ):
        assert said in shell.ended(*SEAWAY, "doctor", *given, code=2).stderr


def everything(shell: Shell) -> list[str]:
    text = shell.seaway("doctor", "--explain", "all")
    return [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
