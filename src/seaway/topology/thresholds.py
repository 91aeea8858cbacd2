"""``alerts:`` in the metadata of durables, where NATS' own tools look for thresholds. Pure.

Owns: the names and forms that `nats server check consumer` and `nats audit` read. Guarantees: what
else stands in a durable's metadata stays; switched off, what Seaway wrote goes, and what somebody
else wrote under these names stays.

| key (after ``io.nats.monitor.``) | critical where           | from                          |
| -------------------------------- | ------------------------ | ----------------------------- |
| ``unprocessed-critical``         | ``num_pending >= n``     | ``stream_messages_pending``   |
| ``outstanding-ack-critical``     | ``num_ack_pending >= n`` | ``consumer_ack_pending``      |
| ``redelivery-critical``          | ``num_redelivered >= n`` | ``consumer_redelivery_count`` |

An alert is above its threshold, a tool's begins at ``n``: so ``n`` is one more, and 0, which
switches a tool's check off, is never written. The tools know no rate: the last is of messages that
are in hand now and have come more than once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor

from seaway.config import AlertSettings
from seaway.contracts import JSON

SINCE = (2, 10)
"""The first nats-server that keeps metadata."""

MARK = "seaway.alerts"
"""Says that Seaway wrote the others, and from which thresholds."""

_MONITOR = "io.nats.monitor."
_OURS = frozenset(
    {MARK}
    | {
        f"{_MONITOR}{name}"
        for name in (
            "enabled",
            "unprocessed-critical",
            "outstanding-ack-critical",
            "redelivery-critical",
        )
    }
)
_SETTINGS = ("stream_messages_pending", "consumer_ack_pending", "consumer_redelivery_count")


def metadata(alerts: AlertSettings) -> Mapping[str, str]:
    """What a durable's metadata is to hold; nothing where that is switched off."""
    if not alerts.metadata:
        return {}
    pending, held = alerts.stream_messages_pending, alerts.consumer_ack_pending
    rate = alerts.consumer_redelivery_count
    return {
        MARK: f"{pending}, {held}, {rate}",
        f"{_MONITOR}enabled": "true",
        f"{_MONITOR}unprocessed-critical": str(pending + 1),
        f"{_MONITOR}outstanding-ack-critical": str(held + 1),
        f"{_MONITOR}redelivery-critical": str(floor(rate.per_minute) + 1),
    }


def merged(wanted: Mapping[str, str], kept: Mapping[str, str] | None) -> dict[str, str]:
    """``kept`` with what is ``wanted`` of ours in it, and nothing else of ours."""
    ours = _OURS if kept and MARK in kept else ()
    left = {name: value for name, value in (kept or {}).items() if name not in ours}
    return {**left, **wanted}


def without_the_servers_own(found: Mapping[str, str]) -> dict[str, str]:
    """For a durable that is made anew."""
    return {name: value for name, value in found.items() if not name.startswith("_nats.")}


def exported(durables: Iterable[JSON]) -> tuple[JSON, str]:
    """``alerts:`` as the marks of these configs have it, empty for the defaults; why it cannot be
    had."""
    marks = {(one.get("metadata") or {}).get(MARK) for one in durables} - {None}
    if len(marks) > 1:
        return {}, "its durables have several: " + "; ".join(sorted(map(str, marks)))
    for mark in marks:
        found: JSON = dict(zip(_SETTINGS, str(mark).split(", "), strict=False))
        for name in _SETTINGS[:2]:
            if found.get(name, "").isdecimal():
                found[name] = int(found[name])
        usual = AlertSettings()
        return {
            name: value for name, value in found.items() if str(value) != str(getattr(usual, name))
        }, ""
    return {}, ""
