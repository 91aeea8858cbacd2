"""What the lists hold: by the file, and nothing that reaches beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from seaway.brokers.jetstream.permissions import PART, Denials, right_to
from seaway.config import Settings, settings_from_mapping
from seaway.errors import ConfigError, NotPermitted
from seaway.naming import covers
from seaway.telemetry import Telemetry
from seaway.topology import ROLES, rights


def settings(**consumer: Any) -> Settings:
    return settings_from_mapping(
        {
            "streams": [{"name": "SEA_EVENTS"}, {"name": "BANK_EVENTS", "retention": "workqueue"}],
            "consumers": [
                {"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea", **consumer},
                {"stream": "BANK_EVENTS", "durable": "billing__from_bank"},
            ],
        },
        environ={},
    )


def test_nobody_but_topology_touches_a_durable() -> None:
    for role in ROLES:
        publish = rights(settings(), role, parking=True, audit=True).publish
        changes = [one for one in publish if "CONSUMER.CREATE" in one or "CONSUMER.DELETE" in one]
        durables = [one for one in changes if ".seaway-reader-" not in one]
        assert bool(durables) == (role == "topology"), role
        assert not [one for one in changes if "*" in one or ">" in one]
        if role != "topology":
            for verb in ("PURGE", "UPDATE", "DELETE"):
                subject = f"$JS.API.STREAM.{verb}.SEA_EVENTS"
                assert not [one for one in publish if covers(one, subject)]


def test_a_service_has_its_own_durables_alone() -> None:
    mine = rights(settings(), "consumer", service="billing")
    assert mine.inbox == "_INBOX_billing_consumer"
    assert mine.subscribe == ("_INBOX_billing_consumer.>",)
    assert not [one for one in mine.publish if "case_mgmt" in one or "SEA_" in one]
    with pytest.raises(ConfigError, match=r"service 'shop'.*billing, case_mgmt"):
        rights(settings(), "consumer", service="shop")


def test_a_work_queue_is_read_without_a_reader() -> None:
    publish = rights(settings(), "relay").publish
    assert "$JS.API.STREAM.MSG.GET.BANK_EVENTS" in publish
    assert not [one for one in publish if "CONSUMER" in one and "BANK" in one]


def test_the_application_is_its_three_parts_and_the_writer_nothing() -> None:
    parts = [rights(settings(), role).publish for role in ("relay", "consumer", "sweeper")]
    assert set(rights(settings(), "application").publish) == {*parts[0], *parts[1], *parts[2]}
    assert rights(settings(), "writer").publish == rights(settings(), "writer").subscribe == ()
    with pytest.raises(ConfigError, match="no role 'boss'"):
        rights(settings(), "boss")


def test_an_exclusive_durable_may_give_up_its_pin() -> None:
    unpin = "$JS.API.CONSUMER.UNPIN.SEA_EVENTS.case_mgmt__from_sea"
    assert unpin in rights(settings(exclusive=True), "consumer").publish
    assert unpin not in rights(settings(), "consumer").publish


@pytest.mark.parametrize(
    ("subject", "right"),
    [
        ("sea.event.case_created.v1", "sea.event.>"),
        ("sea.dlq.sea.event.case_created.v1", "sea.dlq.>"),
        ("sea.redrive.case_mgmt__from_sea.sea.event.a.v1", "sea.redrive.case_mgmt__from_sea.>"),
        ("$JS.ACK.SEA_EVENTS.c__d.1.2.3.4.5", "$JS.ACK.SEA_EVENTS.c__d.>"),
        ("$JS.ACK.hub.acc.SEA_EVENTS.c__d.1.2.3.4.5", "$JS.ACK.hub.acc.SEA_EVENTS.c__d.>"),
        ("$JS.API.STREAM.INFO.SEA_EVENTS", "$JS.API.STREAM.INFO.SEA_EVENTS"),
        ("_INBOX.me.abc.1", "_INBOX.me.>"),
        ("alone", "alone"),
    ],
)
def test_a_denied_subject_names_what_to_grant(subject: str, right: str) -> None:
    assert right_to(subject, inbox="_INBOX.me") == right


def test_a_denial_is_waited_for_until_that_subject_is_answered() -> None:
    telemetry = Telemetry()
    denials, heard = Denials(telemetry, inbox="_INBOX"), list[NotPermitted]()
    forget = denials.watch(heard.append)
    assert denials.heard("nats: 'Stale Connection'") is None
    denials.heard('nats: Permissions Violation for Publish to "sea.event.A.v1"')
    denials.heard('nats: Permissions Violation for Subscription to "_INBOX.x.*" using queue "q"')
    assert [(one.verb, one.right) for one in heard] == [
        ("publish", "sea.event.>"),
        ("subscribe", "_INBOX.>"),
    ]
    assert [wait.about for wait in telemetry.waits if wait.part == PART] == [
        "publish sea.event.>",
        "subscribe _INBOX.>",
    ]
    denials.answered("sea.event.B.v1")
    assert [wait.about for wait in telemetry.waits] == ["publish sea.event.>"]
    denials.answered("sea.event.A.v1")
    assert telemetry.waits == []
    forget()
    forget()
