"""The relay's decisions and memory: pure functions, no loop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from described import a_stream
from seaway.contracts import (
    Backlog,
    Held,
    Message,
    OutboxEntry,
    PublishOutcome,
    Refused,
    Stored,
    StoredMessage,
    Unconfirmed,
)
from seaway.headers import MSG_ID, ORDERING_KEY
from seaway.relay import decisions
from seaway.relay.decisions import Kept, Verdict
from seaway.relay.memory import StreamMemory, Troubles, next_due
from seaway.relay.stored import Seen, is_event
from seaway.retry import Backoff
from seaway.telemetry import RelayPaused, RelayResumed, Signal, Telemetry

NOW = datetime(2026, 11, 24, tzinfo=UTC)
FULL = Refused("maximum bytes exceeded", 503, 10077, heals=True, why="full")
ILL = Refused("no leader", 503, 10008, heals=True)
NOBODY = Refused("no stream takes this subject", 503, 0, heals=True, why="unheard")
WRONG = Refused("wrong last sequence", 400, 10071, heals=False)
TOO_LARGE = Refused("exceeds maximum allowed", 400, 10054, heals=False, why="too_large")
SILENT = Unconfirmed("no acknowledgement in time")


def entry(position: int, key: str = "a", subject: str = "sea.event.moved.v1") -> OutboxEntry:
    message = Message(subject, b"{}", {MSG_ID: f"id-{position}", ORDERING_KEY: key})
    return OutboxEntry(position, f"id-{position}", message, NOW)


def positions(found: decisions.Sorted) -> dict[str, dict[int, list[int]]]:
    return {
        stream: {lane: [e.position for e in share] for lane, share in lanes.items()}
        for stream, lanes in found.shares.items()
    }


def test_a_claim_is_sorted_by_stream_in_order() -> None:
    claimed = [
        entry(1),
        entry(2, subject="case.event.x.v1"),
        entry(3),
        entry(4, subject="case.event.x.v1"),
    ]
    found = decisions.sort_out(claimed, keys=(), streams=())
    assert positions(found) == {"SEA_EVENTS": {0: [1, 3]}, "CASE_EVENTS": {0: [2, 4]}}
    assert (found.unroutable, found.skipped) == ([], 0)


def test_lanes_are_kept_apart() -> None:
    claimed = [entry(place)._replace(lane=lane) for place, lane in enumerate([2, 0, 2, 0, 5])]
    found = decisions.sort_out(claimed, keys=(), streams=())
    assert positions(found) == {"SEA_EVENTS": {2: [0, 2], 0: [1, 3], 5: [4]}}


def test_what_was_settled_meanwhile_is_left_out_for_good() -> None:
    found = decisions.sort_out([entry(1), entry(2)], keys=(), streams=(), settled={"id-1"})
    assert positions(found) == {"SEA_EVENTS": {0: [2]}}
    assert found.skipped == 0


def test_stuck_keys_and_resting_streams_are_left_out() -> None:
    claimed = [entry(1, "a"), entry(2, "b"), entry(3, "b", "case.event.x.v1")]
    found = decisions.sort_out(claimed, keys={"a"}, streams={"CASE_EVENTS"})
    assert positions(found) == {"SEA_EVENTS": {0: [2]}}
    assert found.skipped == 2


def test_a_subject_without_a_context_parks_and_holds_its_key() -> None:
    claimed = [entry(1, "a", "Sea!.event.x.v1"), entry(2, "a"), entry(3, "b")]
    found = decisions.sort_out(claimed, keys=(), streams=())
    [failed] = found.unroutable
    assert failed.park
    assert failed.entry.position == 1
    assert positions(found) == {"SEA_EVENTS": {0: [3]}}


def test_only_acknowledgements_settle_and_outages_count_for_nothing() -> None:
    entries = [entry(n, f"k{n}") for n in range(5)]
    outcomes: list[PublishOutcome] = [Stored(7), Stored(3, duplicate=True), FULL, SILENT, Held()]
    verdict = decisions.judge("SEA_EVENTS", entries, outcomes, max_attempts=1)
    assert [(s.entry.position, s.stream_seq) for s in verdict.sent] == [(0, 7)]
    assert [(s.entry.position, s.stream_seq) for s in verdict.known] == [(1, 3)]
    assert verdict.failed == []
    assert [k.entry.position for k in verdict.kept] == [2, 3, 4]
    assert (verdict.trouble, verdict.lack) == (SILENT, FULL)
    assert list(verdict.full) == ["sea.event.moved.v1"]
    assert not verdict.whole


@pytest.mark.parametrize(
    ("outcome", "attempts", "park"),
    [(WRONG, 0, False), (WRONG, 8, False), (WRONG, 9, True), (TOO_LARGE, 0, True)],
)
def test_a_refused_message_parks_at_the_last_attempt(
    outcome: Refused, attempts: int, park: bool
) -> None:
    tried = entry(1)._replace(attempts=attempts)
    verdict = decisions.judge("SEA_EVENTS", [tried], [outcome], max_attempts=10)
    [failed] = verdict.failed
    assert failed.park is park
    assert str(outcome.err_code) in failed.error
    assert verdict.trouble is None
    assert verdict.stuck == {"a"}


def test_in_trouble_the_stream_waits_and_not_the_keys() -> None:
    verdict = decisions.judge(
        "SEA_EVENTS", [entry(1, "a"), entry(2, "b")], [WRONG, ILL], max_attempts=10
    )
    assert verdict.stuck == {"a"}
    held = decisions.judge(
        "SEA_EVENTS", [entry(1, "a"), entry(2, "a")], [WRONG, Held()], max_attempts=10
    )
    assert held.trouble is None
    assert held.stuck == {"a"}


def test_without_room_the_key_waits_and_not_the_stream() -> None:
    verdict = decisions.judge(
        "SEA_EVENTS",
        [entry(1, "a"), entry(2, "a"), entry(3, "b")],
        [FULL, Held(), Stored(1)],
        max_attempts=1,
    )
    assert (verdict.trouble, verdict.stuck, verdict.failed) == (None, {"a"}, [])


def test_what_needs_as_much_room_as_found_none_waits_with_its_key() -> None:
    large, small = entry(1, "a"), entry(2, "b")
    needed = decisions.size(large)
    large = large._replace(message=replace(large.message, payload=b"x" * 100))
    claimed = [large, entry(3, "a", "sea.event.other.v1"), small, entry(4, "c", "sea.event.o.v1")]
    found = decisions.sort_out(
        claimed, keys=(), streams=(), full={"sea.event.moved.v1": needed + 1}
    )
    assert positions(found) == {"SEA_EVENTS": {0: [2, 4]}}
    assert (found.held, found.skipped) == ({"a"}, 2)


def test_only_what_is_larger_than_its_whole_stream_is_given_up_for_room() -> None:
    large, small = entry(1, "a"), entry(2, "b")
    large = large._replace(message=replace(large.message, payload=b"x" * 1000))
    verdict = Verdict("SEA_EVENTS", kept=[Kept(large, FULL), Kept(small, FULL)])
    assert decisions.outgrown(verdict, a_stream({"name": "SEA_EVENTS", "max_bytes": -1})) == verdict
    judged = decisions.outgrown(verdict, a_stream({"name": "SEA_EVENTS", "max_bytes": 500}))
    assert [each.entry for each in judged.kept] == [small]
    [failed] = judged.failed
    assert (failed.entry, failed.park) == (large, True)
    assert "max_bytes" in failed.error


def lying(each: OutboxEntry, seq: int, payload: bytes = b"{}") -> StoredMessage:
    return StoredMessage(replace(each.message, payload=payload), "SEA_EVENTS", seq, NOW)


def test_what_lies_under_a_known_id_settles_its_event_alone() -> None:
    entries = [entry(n, "abab"[n]) for n in range(4)]
    outcomes: list[PublishOutcome] = [Stored(7, True), Stored(8, True), Held(), Held()]
    verdict = decisions.judge("SEA_EVENTS", entries, outcomes, max_attempts=1)
    seen = Seen()
    seen.saw(entries[0], lying(entries[0], 7))
    seen.saw(entries[1], lying(entries[1], 8, b"forged"))
    judged, free = decisions.looked_at(verdict, seen.own, seen.foreign)
    assert [(each.entry, each.stream_seq) for each in judged.sent] == [(entries[0], 7)]
    assert (judged.duplicates, judged.known) == (1, ())
    [failed] = judged.failed
    assert (failed.entry, failed.park) == (entries[1], True)
    assert "SEA_EVENTS:8" in failed.error
    assert free == [entries[2]]
    assert [each.entry for each in judged.kept] == [entries[3]]


def test_an_event_is_its_own_by_subject_payload_identity_and_key() -> None:
    own = entry(1)
    assert is_event(own, lying(own, 1))
    assert not is_event(own, lying(own, 1, b"[]"))
    for changed in (
        replace(own.message, subject="sea.event.other.v1"),
        replace(own.message, headers={**own.message.headers, "X-Event-Id": "other"}),
        replace(own.message, headers={**own.message.headers, ORDERING_KEY: "b"}),
    ):
        assert not is_event(own, StoredMessage(changed, "SEA_EVENTS", 1, NOW))


def test_a_missing_stream_is_told_from_one_without_leader_and_from_a_foreign_subject() -> None:
    verdict = Verdict("SEA_EVENTS", kept=[Kept(entry(1), NOBODY), Kept(entry(2), Held())])

    missing = decisions.refused_alike(verdict, decisions.MISSING)
    assert missing.trouble is not None
    assert "seaway topology apply" in decisions.reason("SEA_EVENTS", missing.trouble)
    assert isinstance(missing.kept[1].cause, Held)

    leaderless = decisions.reconsidered(
        verdict, a_stream({"name": "SEA_EVENTS", "subjects": ["sea.event.>"]})
    )
    assert (leaderless.kept, leaderless.failed) == (verdict.kept, [])
    assert "leader" in decisions.reason("SEA_EVENTS", NOBODY)

    foreign = decisions.reconsidered(
        verdict, a_stream({"name": "SEA_EVENTS", "subjects": ["sea.event.other.*"]})
    )
    assert foreign.trouble is None
    [failed] = foreign.failed
    assert failed.park
    assert "sea.event.other.*" in failed.error

    silent = decisions.refused_alike(verdict, SILENT)
    assert silent.trouble == SILENT


def test_only_entries_older_than_half_the_window_give_cause_to_ask() -> None:
    young = entry(1)._replace(added_at=NOW - timedelta(seconds=59))
    old = entry(2)._replace(added_at=NOW - timedelta(seconds=61))
    window = timedelta(minutes=2)
    assert decisions.oldest_beyond([young, old], now=NOW, window=window) == old.added_at
    assert decisions.oldest_beyond([young], now=NOW, window=window) is None
    assert decisions.oldest_beyond([], now=NOW, window=window) is None


def test_an_outbox_with_parked_entries_is_drained_when_nothing_can_be_claimed() -> None:
    assert decisions.drained(Backlog(0, 0, None))
    assert decisions.drained(Backlog(3, 1, NOW))
    assert not decisions.drained(Backlog(3, 0, NOW))


def test_looking_costs_a_fifth_of_the_time() -> None:
    least, most = timedelta(milliseconds=100), timedelta(seconds=5)
    rest = decisions.rest_after_looking
    assert rest(timedelta(), least=least, most=most) == least
    assert rest(timedelta(seconds=1), least=least, most=most) == timedelta(seconds=4)
    assert rest(timedelta(minutes=1), least=least, most=most) == most


def test_a_stream_is_trusted_once_the_outbox_has_nothing_else() -> None:
    memory = StreamMemory()
    memory.worked(complete=False)
    assert memory.suspect
    memory.worked(complete=True)
    assert memory.suspect is False


def test_a_stream_is_trusted_once_it_was_asked() -> None:
    memory = StreamMemory()
    memory.reconciled()
    assert memory.suspect is False


def test_a_stream_that_stumbled_is_suspected_again() -> None:
    memory = StreamMemory(suspect=False)
    memory.stumbled(SILENT, progress=False, now=5.0, backoff=Backoff())
    assert memory.suspect
    assert memory.silent
    assert memory.rests_until > 5.0
    memory.worked(complete=True)
    assert (memory.suspect, memory.cause, memory.rests_until) == (False, None, 0.0)


def test_each_trouble_is_said_once_and_its_end_once() -> None:
    said: list[Signal] = []
    telemetry = Telemetry()
    telemetry.subscribe(said.append)
    troubles = Troubles(telemetry)
    for _ in range(3):
        troubles.began("SEA_EVENTS", topic="no answer", reason="sea", now=1.0)
        troubles.began("CASE_EVENTS", topic="no answer", reason="case", now=2.0)
    assert [(one.part, one.about, one.reason) for one in telemetry.waits] == [
        ("relay", "SEA_EVENTS", "sea"),
        ("relay", "CASE_EVENTS", "case"),
    ]
    troubles.ended("CASE_EVENTS", now=3.0)
    troubles.ended("CASE_EVENTS", now=3.0)
    assert [one.about for one in telemetry.waits] == ["SEA_EVENTS"]
    assert said == [RelayPaused("sea")]
    troubles.ended("SEA_EVENTS", now=4.0)
    assert said == [RelayPaused("sea"), RelayResumed(timedelta(seconds=3))]
    troubles.began("SEA_EVENTS", topic="no answer", reason="again", now=5.0)
    assert said[-1] == RelayPaused("again")


def test_next_due_is_the_earliest_to_come() -> None:
    assert next_due([1.0, 7.0, 9.0], now=5.0, waiting=False) == timedelta(seconds=2)
    assert next_due([1.0, 7.0], now=5.0, waiting=True) == timedelta()
    assert next_due([1.0], now=5.0, waiting=False) is None
