"""A trace: what caused what, folded by kind, as text and as a picture, whatever events say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from seaway.history.trace.svg import drawn
from seaway.history.trace.text import lines
from seaway.history.trace.tree import rows
from seaway.history.trace.values import Member, Step, Trace, time_of
from seaway.history.trace.weave import Known, woven

T = datetime(2026, 11, 24, 8, tzinfo=UTC)
GOLDEN = """\
order-7
2 events, from 2026-11-24 08:00:00.000 UTC, within 1.03 s

shop.event.order_placed.v1
  a  <- asked for
  08:00:00.000  written
  08:00:00.028  published     SHOP_EVENTS:1                +28 ms
  08:00:00.039  handled       billing__from_shop           +11 ms

  billing.event.invoice_made.v1
    b
    08:00:00.040  written                                    +40 ms
    08:00:00.035  published     BILLING_EVENTS:9             -5 ms !
    08:00:01.035  dead letter   mail__from_billing           +1 s
                  BILLING_DLQ:3 poison; NoAddress: no address

! earlier than the step before it: the clocks of two stations differ

not asked: nats://away: no answer"""


def at(milliseconds: int) -> datetime:
    return T + timedelta(milliseconds=milliseconds)


def small() -> Trace:
    took = timedelta(milliseconds=1)
    placed = Member("a", "shop.event.order_placed.v1", "order-7")
    placed.steps = [
        Step("written", at(0), "database"),
        Step("published", at(28), "server", "SHOP_EVENTS:1", took=28 * took),
        Step("handled", at(39), "database", "billing__from_shop", took=11 * took),
    ]
    made = Member("b", "billing.event.invoice_made.v1", "order-7", "a", parent="a")
    made.steps = [
        Step("written", at(40), "database", took=40 * took),
        Step("published", at(35), "server", "BILLING_EVENTS:9", took=-5 * took),
        Step(
            *("dead letter", at(1035), "consumer", "mail__from_billing"),
            *("BILLING_DLQ:3 poison; NoAddress: no address", 1000 * took),
        ),
    ]
    away = {"nats://away": "no answer"}
    return Trace("a", "order-7", {"a": placed, "b": made}, ["the database"], away)


def test_a_small_trace_as_text() -> None:
    assert "\n".join(lines(small())) == GOLDEN


def test_the_picture_is_xml_without_scripts_and_holds_no_markup_of_others() -> None:
    trace = small()
    trace.members["b"].subject = 'billing.event.<script>"&\x1b\ud800.v1'
    trace.members["b"].steps[-1].detail = "</text><script>alert(1)</script>" * 9
    root = ElementTree.fromstring(drawn(trace).encode("utf-8"))
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert tags == {
        *("svg", "title", "style", "defs", "marker", "path", "rect", "line", "text", "circle"),
    }
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert {"shop", "billing", "mail"} <= set(texts)


def test_many_alike_are_folded_and_the_one_asked_for_is_not() -> None:
    trace = small()
    trace.wanted = "c7"
    for number in range(100_000):
        one = Member(f"c{number}", "shop.event.line_added.v1", "order-7", "a", parent="a")
        one.steps = [
            Step("written", at(number), "database"),
            Step("handled", at(number), "", "x__y"),
        ]
        trace.members[one.event_id] = one
    for number in range(1000):
        one = Member(f"d{number}", "shop.event.line_moved.v1", "order-7", "c9", parent="c9")
        one.steps = [Step("parked", at(number), "database")]
        trace.members[one.event_id] = one
    found = rows(trace)
    assert [(row.depth, len(row.members)) for row in found] == [(0, 1), (1, 99_999), (1, 1), (1, 1)]
    assert (found[1].bad, found[1].below["shop.event.line_moved.v1"]) == (1000, 1000)
    text = "\n".join(lines(trace))
    assert "99999 x shop.event.line_added.v1" in text
    assert "c7  <- asked for" in text
    assert len(drawn(trace)) < 50_000
    assert len(rows(trace, everything=True)) == len(trace.members)


def test_a_chain_of_any_depth_is_gone_through() -> None:
    trace = Trace("0", "0")
    for number in range(20_000):
        cause = str(number - 1) if number else None
        trace.members[str(number)] = Member(str(number), "s.event.next.v1", "0", cause)
    woven(trace, Known())
    found = rows(trace)
    assert len(found) < 300
    assert sum(len(row.members) + row.below.total() for row in found) == 20_000
    ElementTree.fromstring(drawn(trace))


def test_circles_missing_causes_and_events_that_caused_themselves_are_said() -> None:
    causes = {"a": "c", "b": "a", "c": "b", "d": "d", "e": "gone", "f": None}
    members = {name: Member(name, causation_id=cause) for name, cause in causes.items()}
    trace = Trace("b", "x", members)
    woven(trace, Known())
    assert sorted(m.event_id for row in rows(trace) for m in row.members) == sorted(causes)
    assert "lead back to it" in members["a"].flaw
    assert members["d"].flaw == "it says that it caused itself"
    assert members["e"].flaw == "caused by gone, of which nothing is known"


def test_only_a_uuidv7_tells_its_time() -> None:
    assert time_of("01a22626-4cba-7e9d-9e3c-35784d330508") is not None
    assert time_of("f47ac10b-58cc-4372-a567-0e02b2c3d479") is None
    assert time_of("SEA_EVENTS:7") is None
    assert time_of("ffffffff-ffff-7fff-bfff-ffffffffffff") is None
