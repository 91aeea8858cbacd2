"""The smallest file on the smallest server: one line, which works and stays quiet."""

from __future__ import annotations

import json
from pathlib import Path

from seaway.embedded.nats_server import NatsCluster, NatsServer
from shell import SEAWAY, Shell


def folder(path: Path, url: str, text: str = "contexts: [shop]\n") -> Shell:
    (path / "seaway.yaml").write_text(text)
    return Shell(path, url)


async def test_one_line_works_on_a_server_that_is_no_cluster(tmp_path: Path) -> None:
    async with NatsServer() as server:
        shell = folder(tmp_path, server.url)
        planned = shell.ended(*SEAWAY, "topology", "plan", code=1)
        assert "one replica instead of the default of 3" in planned.stderr
        assert "SHOP_EVENTS, SHOP_DLQ, SHOP_REDRIVE, SEAWAY_ADVISORIES" in planned.stderr
        assert "one replica" in shell.ended(*SEAWAY, "topology", "apply").stderr
        again = json.loads(shell.ended(*SEAWAY, "topology", "plan", "--json").stdout)
        assert again["changes"] == []
        assert len(again["notes"]) == 1
        # What Seaway itself made is in the file, as far as it is concerned.
        assert again["unmanaged"] == []
        shell.ended(*SEAWAY, "db", "upgrade")
        checked = json.loads(shell.ended(*SEAWAY, "check", "--sample", "0", "--json").stdout)
        assert checked["state"] == "ok"


async def test_a_written_number_of_replicas_is_an_error_that_names_the_way_out(
    tmp_path: Path,
) -> None:
    async with NatsServer() as server:
        shell = folder(tmp_path, server.url, "streams: [{name: SHOP_EVENTS, replicas: 3}]\n")
        refused = shell.ended(*SEAWAY, "topology", "apply", code=2)
        assert "replicas: 3 is more than this server or cluster has" in refused.stderr
        assert "leave `replicas` out" in refused.stderr
        (tmp_path / "seaway.yaml").write_text(
            "contexts: [shop]\nprofile: live\nprofiles: {live: {replicas: 3}}\n"
        )
        assert "replicas: 3" in shell.ended(*SEAWAY, "topology", "apply", code=2).stderr


async def test_a_cluster_gets_the_default(tmp_path: Path) -> None:
    async with NatsCluster(3) as cluster:
        shell = folder(tmp_path, cluster.url)
        applied = shell.ended(*SEAWAY, "topology", "apply", "--json")
        assert json.loads(applied.stdout)["notes"] == []
        shown = json.loads(shell.ended(*SEAWAY, "stream", "info", "SHOP_EVENTS", "--json").stdout)
        assert shown["config"]["num_replicas"] == 3
