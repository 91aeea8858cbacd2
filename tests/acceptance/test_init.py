"""``seaway init``: a file that works as it is written, and whose comments are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seaway.cli.dev import text_for
from seaway.config import Settings, settings_from_mapping
from seaway.config.sources import parse_document
from seaway.embedded.nats_server import NatsServer
from shell import SEAWAY, Shell


def settings_of(text: str) -> Settings:
    return settings_from_mapping(parse_document(text, "seaway.yaml", {}).data, environ={})


def uncommented(text: str) -> str:
    """Every commented key is one, every comment of words stays one."""
    return re.sub(r"^# (?=[a-z_]+:( |$)|  )", "", text, flags=re.MULTILINE)


def test_what_is_commented_out_is_valid_too() -> None:
    every = uncommented(text_for("shop"))
    assert {"nats", "consumers", "streams", "outbox", "alerts"} <= set(
        parse_document(every, "seaway.yaml", {}).data
    )
    assert [one.durable for one in settings_of(every).consumers] == [
        "billing__from_shop",
        "shop__default",
    ]


def test_what_is_commented_out_is_the_default() -> None:
    written, every = settings_of(text_for("shop")), settings_of(uncommented(text_for("shop")))
    for name in ("nats", "alerts", "outbox", "streams", "profile"):
        assert getattr(written, name) == getattr(every, name)


def test_it_writes_once_and_never_over_a_file(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "nats://127.0.0.1:1")
    shell.seaway("init", "town")
    written = (tmp_path / "seaway.yaml").read_text()
    assert settings_of(written).contexts == ("town",)
    shell.seaway("init", code=2)
    assert (tmp_path / "seaway.yaml").read_text() == written
    shell.seaway("--config", "other.yaml", "init")
    assert settings_of((tmp_path / "other.yaml").read_text()).contexts == ("shop",)


@pytest.mark.server
def test_what_was_made_is_said(tmp_path: Path, nats_server_own: NatsServer) -> None:
    shell = Shell(tmp_path, nats_server_own.url)
    shell.seaway("init")
    done = shell.ended(*SEAWAY, "topology", "apply").stderr
    assert re.search(r"\d+ changes made: the server is as the file says", done)
    assert "made" not in shell.ended(*SEAWAY, "topology", "apply").stderr
    file = tmp_path / "seaway.yaml"
    file.write_text(file.read_text() + "streams: [{name: SHOP_EVENTS, storage: memory}]\n")
    lost = shell.ended(*SEAWAY, "topology", "apply", code=1)
    assert "would lose data" in lost.stderr
    assert "--allow-data-loss" in lost.stderr


@pytest.mark.parametrize("context", ["Shop", "a b", "", "../x"])
def test_a_name_that_is_no_context_writes_nothing(tmp_path: Path, context: str) -> None:
    Shell(tmp_path, "nats://127.0.0.1:1").seaway("init", context, code=2)
    assert not (tmp_path / "seaway.yaml").exists()


def test_what_is_committed_can_be_overridden_where_it_runs(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "nats://127.0.0.1:1")
    (tmp_path / "seaway.yaml").write_text("contexts: [sea]\ndatabase: 'sqlite:///committed.db'\n")
    shell.environment["SEAWAY_DATABASE_URL"] = "sqlite:///there.db"
    shell.seaway("db", "upgrade")
    assert [one.name for one in tmp_path.glob("*.db")] == ["there.db"]
    shell.seaway("--database", "sqlite:///flag.db", "db", "upgrade")
    assert {one.name for one in tmp_path.glob("*.db")} == {"there.db", "flag.db"}
