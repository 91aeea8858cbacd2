"""The dashboard's pages and endpoints over a source of made-up figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest
from starlette.testclient import TestClient

from seaway.config import AlertSettings
from seaway.contracts import Backlog, ConsumerInfo, Message, ServerInfo, StoredMessage, StreamInfo
from seaway.dead_letters.letter import Letter
from seaway.errors import BrokerUnavailable, NotFound
from seaway.monitor import Activity, Sample, Snapshot, recent_rates
from seaway.web import ANY_ADDRESS, create_app
from seaway.web.application import payload_text, sparkline

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "<script>alert('x')</script>"
CONSUMER = ConsumerInfo(
    stream="SEA_EVENTS",
    durable="case_mgmt__from_sea",
    created="a",
    num_pending=1234,
    num_ack_pending=3,
    num_redelivered=1,
    num_waiting=1,
    consumer_seq=10,
    stream_seq=10,
    ack_floor=7,
    max_ack_pending=50,
)
STREAM = StreamInfo(
    name="SEA_EVENTS",
    subjects=("sea.event.>",),
    created="a",
    retention="limits",
    messages=30,
    bytes=2048,
    first_seq=1,
    last_seq=30,
    num_deleted=0,
    consumer_count=1,
    max_bytes=4096,
)
WELL = Snapshot(
    NOW,
    server=ServerInfo("2.15.1", True, 1 << 20, server_name="one"),
    streams=(STREAM,),
    consumers=(CONSUMER,),
    outbox=Backlog(4, 0, NOW - timedelta(seconds=9), dead_rows=1234),
    dead_letters={"sea": 1},
)


def letter(payload: bytes = b"{}", error: str = EVIL) -> Letter:
    headers = {"X-Dlq-Error": error, "X-Dlq-Error-Stack": f"Traceback {EVIL}", EVIL: EVIL}
    message = Message("sea.dlq.sea.event.x.v1", payload, headers)
    return Letter(
        stored=StoredMessage(message, "SEA_DLQ", 17, NOW),
        event_id=EVIL,
        subject="sea.event.x.v1",
        stream="SEA_EVENTS",
        stream_seq=5,
        consumer="case_mgmt__from_sea",
        deliveries=1,
        reason="poison",
        error_type="ValueError",
        error=error,
        failed_at=NOW,
    )


class Figures:
    """A source that says what it was told to."""

    def __init__(self, sample: Sample, letters: Sequence[Letter] = ()) -> None:
        self.activity = Activity()
        self.now = sample
        self.there = letters
        self.broken = False
        self.entered = 0

    @property
    def history(self) -> Sequence[Sample]:
        return [replace(self.now, read_at=self.now.read_at - 10), self.now]

    async def sample(self) -> Sample:
        return self.now

    async def letters(self, limit: int) -> Sequence[Letter]:
        if self.broken:
            raise BrokerUnavailable("no answer")
        return self.there[:limit]

    @property
    def audited(self) -> None:
        return None

    async def letter(self, letter_id: str) -> Letter:
        for found in await self.letters(100):
            if found.id == letter_id:
                return found
        raise NotFound(f"there is no dead letter {letter_id}")

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.entered -= 1


@pytest.fixture
def figures() -> Figures:
    return Figures(Sample(WELL, {CONSUMER.key: 5}, read_at=20.0), [letter()])


@pytest.fixture
def client(figures: Figures) -> Iterator[TestClient]:
    web = create_app(figures, AlertSettings(), allowed_hosts=("127.0.0.1", "[::1]"))
    with TestClient(web, base_url="http://127.0.0.1:8288") as connected:
        assert figures.entered == 1
        yield connected
    assert figures.entered == 0


def test_the_page_shows_everything_and_works_without_scripts(client: TestClient) -> None:
    answer = client.get("/")
    page = answer.text
    assert answer.status_code == 200
    for shown in (
        "Needs a look", "case_mgmt__from_sea", "1,234", "SEA_EVENTS", "2.0 KB", "50.0 %",
        "oldest 9s, 1,234 dead rows", "SEA_DLQ:17", "seaway dlq ls",
        "<noscript><meta http-equiv=\"refresh\"",
        "<svg class=\"spark\"",
    ):  # fmt: skip
        assert shown in page, shown
    assert not re.search(r"(?:src|href)=\"https?:", page)
    assert " style=" not in page
    assert page.count("<table>") == page.count("<caption") == 3
    # Wider than a phone, so they must be scrolled with the keyboard too.
    assert len(re.findall(r'class="scroll" tabindex="0" role="region" aria-label="', page)) == 3
    assert page.count('class="scroll"') == 3


def test_what_others_wrote_is_never_markup(client: TestClient) -> None:
    for path in ("/", "/dead-letters/SEA_DLQ:17", "/dead-letters/%3Cscript%3Ealert('x')"):
        page = client.get(path).text
        assert "<script>" not in page
    shown = client.get("/dead-letters/SEA_DLQ:17").text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in shown
    assert "seaway dlq redrive SEA_DLQ:17" in shown


def test_a_letter_of_somebody_else_s_making_is_said_to_be_one(
    figures: Figures, client: TestClient
) -> None:
    figures.there = [replace(letter(), problem=f"bad {EVIL}")]
    page = client.get("/dead-letters/SEA_DLQ:17").text
    assert "bad &lt;script&gt;" in page
    assert "seaway dlq discard SEA_DLQ:17" in page
    assert "seaway dlq redrive" not in page


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/metrics", "/static/seaway.css", "/nope", "/dead-letters/nope"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8288"])
def test_another_sites_name_does_not_reach_it(client: TestClient, host: str) -> None:
    assert client.get("/api/snapshot", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.1.2.3:8288", 200),
        ("[fe80::1]:8288", 200),
        ("board.example", 200),
        ("BOARD.example:8288", 200),
        ("evil.example:8288", 400),
        ("10.1.2.3.evil.example", 400),
        ("[evil.example]", 400),
        ("", 400),
    ],
)
def test_beyond_loopback_it_answers_to_addresses_and_to_names_that_were_given(
    figures: Figures, host: str, status: int
) -> None:
    web = create_app(figures, AlertSettings(), allowed_hosts=(ANY_ADDRESS, "board.example"))
    with TestClient(web) as client:
        answer = client.get("/healthz", headers={"host": host})
    assert answer.status_code == status
    if status == 400:
        assert "--allow-host" in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_ipv6_loopback_is_a_known_name(client: TestClient) -> None:
    assert client.get("/healthz", headers={"host": "[::1]:8288"}).status_code == 200


def test_nothing_can_be_changed(client: TestClient) -> None:
    for path in ("/", "/dead-letters/SEA_DLQ:17", "/metrics", "/api/snapshot"):
        assert client.post(path).status_code == 405


def test_unknown_pages_and_letters_are_404(client: TestClient) -> None:
    for path in ("/nope", "/dead-letters/SEA_DLQ:99"):
        answer = client.get(path)
        assert (answer.status_code, "Not found" in answer.text) == (404, True)


def test_letters_that_cannot_be_read_do_not_break_the_page(
    client: TestClient, figures: Figures
) -> None:
    figures.broken = True
    assert "They cannot be read: no answer" in client.get("/").text
    assert client.get("/dead-letters/SEA_DLQ:17").status_code == 503


def test_a_server_that_is_away_is_a_page(client: TestClient, figures: Figures) -> None:
    since = NOW - timedelta(seconds=90)
    figures.now = Sample(Snapshot(NOW, server_error="refused"), away_since=since, read_at=20.0)
    page = client.get("/")
    assert page.status_code == 200
    assert "NATS away since" in page.text
    assert "(1m 30s)" in page.text
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["NATS: refused"])
    assert "seaway_server_up_bool 0.0" in client.get("/metrics").text


def test_ready_needs_server_database_streams_and_consumers(
    client: TestClient, figures: Figures
) -> None:
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    lacking = replace(
        WELL,
        missing_streams=("SEA_DLQ",),
        missing_consumers=(("SEA_EVENTS", "x__y"),),
        outbox_error="locked",
    )
    figures.now = Sample(lacking)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == [
        "database: locked",
        "stream SEA_DLQ does not exist",
        "consumer x__y of SEA_EVENTS does not exist",
    ]


def test_metrics_rules_and_snapshot_are_for_machines(client: TestClient) -> None:
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'consumer_redelivery_count{stream="SEA_EVENTS",consumer="case_mgmt__from_sea"} 5' in (
        metrics.text
    )
    assert "stream_messages_pending > 1000" in client.get("/alerts.rules.yml").text
    body = client.get("/api/snapshot").json()
    assert body["state"] == "warning"
    assert body["taken_at"] == NOW.isoformat()
    assert body["consumers"][0]["num_pending"] == 1234
    assert body["redeliveries"] == [
        {"stream": "SEA_EVENTS", "consumer": "case_mgmt__from_sea", "count": 5}
    ]


@pytest.mark.parametrize(
    ("payload", "text", "note"),
    [
        (b"", "", "empty"),
        (b'{"a":1}', json.dumps({"a": 1}, indent=2), "7 B, JSON"),
        (b"hello", "hello", "5 B, not JSON"),
        (b"\xff\x00a", "\\xff\x00a", "3 B, not UTF-8"),
        (b"[" * 50_000, "[" * 50_000, "48.8 KB, not JSON"),
    ],
)
def test_any_payload_can_be_shown(payload: bytes, text: str, note: str) -> None:
    assert payload_text(letter(payload)) == (text, note)


def test_a_large_payload_is_cut() -> None:
    text, note = payload_text(letter(b"x" * (2 << 20)))
    assert (len(text), note) == (64 * 1024, "2.0 MB, the first 64.0 KB")


def test_sparklines_stay_in_their_box() -> None:
    assert sparkline([5]) == ""
    assert sparkline([0, 0]) == "0.0,26.0 120.0,26.0"
    assert sparkline([0, 10, 5]) == "0.0,26.0 60.0,2.0 120.0,14.0"


def test_rates_look_back_a_minute_or_one_sample() -> None:
    def at(seconds: float, count: int) -> Sample:
        return Sample(WELL, {CONSUMER.key: count}, read_at=seconds)

    assert recent_rates([at(0, 0)]) is None
    assert recent_rates([at(0, 0), at(100, 500), at(130, 510)]) == {CONSUMER.key: 20.0}
    assert recent_rates([at(0, 0), at(120, 10)]) == {CONSUMER.key: 5.0}
