"""Prometheus' alert rules for the thresholds of the configuration.

Owns: the rules. Pure. ``alerts.rules.yml`` beside this file is what the defaults give. Guarantees:
``promtool check rules`` accepts it; every annotation names the next command.
"""

from __future__ import annotations

from typing import Any

import yaml

from seaway.config import AlertSettings
from seaway.monitor.checks import FULL_WARNING
from seaway.monitor.standstill import OUTBOX_AGE_CRITICAL_SECONDS, OUTBOX_AGE_WARNING_SECONDS

_CONSUMER = "{{ $labels.stream }} {{ $labels.consumer }}"


def alert_rules(alerts: AlertSettings) -> str:
    """A rules file (YAML) for ``alerts``."""
    pending, held = alerts.stream_messages_pending, alerts.consumer_ack_pending
    rate = f"{alerts.consumer_redelivery_count.per_minute:g}"
    contract = [
        _rule(
            "SeawayStreamMessagesPending",
            # Nobody waits for what no process has ever asked for: `seaway check` only tells it.
            f"stream_messages_pending > {pending} "
            "unless on (stream, consumer) seaway_consumer_never_pulled_bool == 1",
            "Messages pending for {{ $labels.consumer }} on {{ $labels.stream }}: {{ $value }}",
            f"More than {pending} wait. Start more workers, or see why it is slow: "
            f"seaway consumer info {_CONSUMER}",
        ),
        _rule(
            "SeawayConsumerAckPending",
            f"consumer_ack_pending > {held}",
            "Unacknowledged messages that {{ $labels.consumer }} holds: {{ $value }}",
            f"More than {held} are in hand. See whether its handlers hang: "
            f"seaway consumer info {_CONSUMER}",
        ),
        _rule(
            "SeawayConsumerRedeliveries",
            f"rate(consumer_redelivery_count[1m]) * 60 > {rate}",
            'Redeliveries a minute of {{ $labels.consumer }}: {{ $value | printf "%.0f" }}',
            f"More than {rate} a minute: its handlers fail. See its log, and: seaway dlq ls",
        ),
    ]
    own = [
        _rule(
            "SeawayServerAway",
            "seaway_server_up_bool == 0",
            "The NATS server does not answer",
            "Events wait in the outbox until it is back. See: seaway check",
            severity="critical",
            hold="1m",
        ),
        _rule(
            "SeawayOutboxOld",
            f"seaway_outbox_oldest_age_seconds > {OUTBOX_AGE_WARNING_SECONDS}",
            "The oldest event has waited {{ $value | humanizeDuration }} in the outbox",
            "Is a relay running? seaway relay; seaway outbox status",
        ),
        _rule(
            "SeawayOutboxStuck",
            f"seaway_outbox_oldest_age_seconds > {OUTBOX_AGE_CRITICAL_SECONDS}",
            "The oldest event has waited {{ $value | humanizeDuration }} in the outbox",
            "Nothing is being published. Start a relay: seaway relay; seaway outbox status",
            severity="critical",
        ),
        _rule(
            "SeawayWaiting",
            "seaway_process_waits > 0",
            "What {{ $labels.part }} waits for: {{ $value }}",
            "It says of itself that it does not get on, and why: seaway check",
            hold="1m",
        ),
        _rule(
            "SeawayOutboxParked",
            "seaway_outbox_parked_events > 0",
            "Events that will not heal by themselves: {{ $value }}",
            "Their keys wait behind them. seaway outbox list --parked; seaway outbox retry",
        ),
        _rule(
            "SeawayLost",
            "seaway_log_unseen_entries > 0",
            "What a server lost, by what was done about it ({{ $labels.action }}): {{ $value }}",
            "See what it was, and say that it is known: seaway log list; seaway log seen --all",
        ),
        _rule(
            "SeawayDeadLetters",
            "seaway_dead_letter_messages > 0",
            "Dead letters in {{ $labels.context }}: {{ $value }}",
            "Look, mend the handler, send them again: seaway dlq ls; seaway dlq redrive",
        ),
        _rule(
            "SeawayStreamFull",
            f"seaway_stream_fill_ratio > {FULL_WARNING}",
            "{{ $labels.stream }} is {{ $value | humanizePercentage }} full",
            "The oldest messages go, or new ones are refused, as its discard policy says: "
            "seaway stream info {{ $labels.stream }}",
            severity="info",
            hold="5m",
        ),
    ]
    groups = [{"name": "seaway", "rules": contract}, {"name": "seaway-own", "rules": own}]
    return _HEADER + yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)


_HEADER = "# Made by `seaway check --rules` from alerts: in seaway.yaml; change it there.\n"


def _rule(
    name: str,
    expression: str,
    summary: str,
    description: str,
    *,
    severity: str = "warning",
    hold: str | None = None,
) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": name, "expr": expression}
    if hold is not None:
        rule["for"] = hold
    rule["labels"] = {"severity": severity}
    rule["annotations"] = {"summary": summary, "description": description}
    return rule
