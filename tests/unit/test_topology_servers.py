"""What older servers are not asked for, and what a file may not ask of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from described import a_consumer, a_stream
from seaway import topology
from seaway.config import settings_from_mapping
from seaway.contracts import BrokerAdmin, ServerInfo, StreamInfo
from seaway.errors import ConfigError
from seaway.topology import ServerState, Topology
from seaway.topology.fields import FIELDS
from servers import DEBIAN, VERSIONS

SINCE = {name: one.since for name, one in FIELDS.items() if one.since}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "servers.md"
EMPTY = ServerState({}, {}, datetime(2026, 11, 28, tzinfo=UTC))


def wanted(stream: dict[str, Any] | None = None, **consumer: Any) -> Topology:
    mapping = {
        "streams": [{"name": "SEA_EVENTS", "replicas": 1, **(stream or {})}],
        "consumers": [{"stream": "SEA_EVENTS", "durable": "a__from_sea", **consumer}],
    }
    return topology.desired(settings_from_mapping(mapping, environ={}))


def having(plan: topology.Plan, release: tuple[int, ...]) -> ServerState:
    """A server of ``release`` on which ``plan`` was carried out."""
    streams = {one.stream: a_stream(one.config) for one in plan.changes if one.durable is None}
    consumers = {
        (one.stream, one.durable): a_consumer(one.stream, one.durable, one.config)
        for one in plan.changes
        if one.durable is not None
    }
    return replace(EMPTY, streams=streams, consumers=consumers, release=release)


@pytest.mark.parametrize("release", [(2, 9), (2, 10), (2, 11)])
def test_it_is_set_up_without_what_it_lacks_and_shows_that_after_its_upgrade(
    release: tuple[int, int],
) -> None:
    plan = topology.plan(wanted(), replace(EMPTY, release=release))
    asked = {name for change in plan.changes for name in change.config}
    assert not asked & {name for name, since in SINCE.items() if since > release}
    assert topology.plan(wanted(), having(plan, release)).empty
    assert any("alerts:" in note for note in plan.notes) == (release == (2, 9))
    change, redrives, *durables = topology.plan(wanted(), having(plan, (2, 12))).changes
    assert list(map(str, change.differences)) == ["allow_atomic: none -> true"]
    said = sorted(map(str, redrives.differences))
    assert said == ["allow_msg_schedules: none -> true", "discard: new -> old"]
    assert redrives.kind == "in_place"
    assert {one.kind for one in durables} == ({"in_place"} if release == (2, 9) else set())
    assert all("metadata." in str(one) for durable in durables for one in durable.differences)


@pytest.mark.parametrize(
    ("stream", "consumer", "release", "said"),
    [
        ({}, {"exclusive": True}, (2, 10), r"a__from_sea: exclusive: true needs nats-server 2\.11"),
        ({"compression": "s2"}, {}, (2, 9), r"SEA_EVENTS: compression needs nats-server 2\.10"),
        (
            {},
            {"filter_subjects": ["sea.event.a.v1", "sea.event.b.v1"]},
            (2, 9),
            r"a__from_sea: filter_subjects needs nats-server 2\.10",
        ),
    ],
)
def test_what_the_file_asks_for_is_an_error_on_an_older_one(
    stream: dict[str, Any], consumer: dict[str, Any], release: tuple[int, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        topology.plan(wanted(stream, **consumer), replace(EMPTY, release=release))
    newer = (release[0], release[1] + 1)
    assert topology.plan(wanted(stream, **consumer), replace(EMPTY, release=newer)).changes
    assert topology.plan(wanted(stream, **consumer), EMPTY).changes


def test_a_durable_is_not_replaced_unasked_where_its_position_could_be_lost() -> None:
    before = topology.plan(wanted(), replace(EMPTY, release=(2, 9)))
    for release, kind in (((2, 9), "loses_data"), ((2, 10), "recreate_consumer")):
        changes = topology.plan(wanted(max_waiting=9), having(before, release)).changes
        kinds = {one.stream: one.kind for one in changes}
        # What the redrive stream acknowledged is not there any more: it needs no position.
        assert kinds == {"SEA_EVENTS": kind, "SEA_REDRIVE": "recreate_consumer"}


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.15.1", (2, 15)), ("2.12.0-RC.3", (2, 12)), ("memory", ()), ("", ())],
)
def test_a_release_is_read_from_the_version(version: str, release: tuple[int, ...]) -> None:
    assert ServerInfo(version, True, 1).release == release


def test_the_page_has_every_version_and_field() -> None:
    page = PAGE.read_text()
    for version in VERSIONS:
        if version != DEBIAN:
            assert f"| {version} |" in page
    for name, (major, minor) in SINCE.items():
        if not name.startswith("priority_"):
            assert re.search(rf"{name}.*{major}\.{minor}", page)


class _Elsewhere:
    """A server that is no cluster, asked for the streams of another domain."""

    def __init__(self, *streams: StreamInfo, elsewhere: bool = True) -> None:
        self._streams = streams
        self._info = ServerInfo("2.15.1", True, 1 << 20, elsewhere=elsewhere)

    async def server_info(self) -> ServerInfo:
        return self._info

    async def streams(self) -> Sequence[StreamInfo]:
        return self._streams


@pytest.mark.parametrize(
    ("admin", "clustered"),
    [
        (_Elsewhere(elsewhere=False), False),
        (_Elsewhere(), None),
        (_Elsewhere(a_stream({"name": "OTHER"}, cluster="hub")), True),
    ],
)
async def test_another_domains_servers_are_not_judged_by_this_one(
    admin: _Elsewhere, clustered: bool | None
) -> None:
    assert (await topology.actual(cast(BrokerAdmin, admin))).clustered is clustered
