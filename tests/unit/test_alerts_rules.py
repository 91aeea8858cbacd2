"""The alert rules: thresholds of the configuration, the shipped file, and promtool's word."""

from __future__ import annotations

import copy
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from seaway.config import AlertSettings, settings_from_mapping
from seaway.monitor import alert_rules

SHIPPED = files("seaway.monitor").joinpath("alerts.rules.yml")


def rules(text: str) -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
    }


def test_the_three_of_the_contract_carry_the_configured_thresholds() -> None:
    alerts = settings_from_mapping(
        {
            "contexts": ["sea"],
            "alerts": {
                "stream_messages_pending": 7,
                "consumer_ack_pending": 8,
                "consumer_redelivery_count": "600/h",
            },
        },
        environ={},
    ).alerts
    expressions = [rule["expr"] for rule in rules(alert_rules(alerts)).values()]
    assert expressions[:3] == [
        "stream_messages_pending > 7 "
        "unless on (stream, consumer) seaway_consumer_never_pulled_bool == 1",
        "consumer_ack_pending > 8",
        "rate(consumer_redelivery_count[1m]) * 60 > 10",
    ]


def test_every_rule_says_what_and_names_the_next_command() -> None:
    for rule in rules(alert_rules(AlertSettings())).values():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        assert "seaway " in rule["annotations"]["description"]


def test_the_shipped_file_is_what_the_defaults_give() -> None:
    assert SHIPPED.read_text() == alert_rules(AlertSettings())


@pytest.mark.promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install Prometheus' promtool (Debian: apt-get install prometheus)"
    file = tmp_path / "alerts.rules.yml"
    file.write_text(alert_rules(AlertSettings()))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.promtool
def test_the_alerts_fire_above_their_thresholds_and_not_at_them(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install Prometheus' promtool (Debian: apt-get install prometheus)"
    labels = '{stream="SEA_EVENTS",consumer="sea__default"}'
    unused = f"seaway_consumer_never_pulled_bool{labels}"
    cases = [
        ("SeawayStreamMessagesPending", f"stream_messages_pending{labels}", "1000", "1001"),
        ("SeawayConsumerAckPending", f"consumer_ack_pending{labels}", "100", "101"),
        # 50 and 52 a minute, sampled every 15 s.
        ("SeawayConsumerRedeliveries", f"consumer_redelivery_count{labels}", "0+12.5", "0+13"),
        ("SeawayLost", 'seaway_log_unseen_entries{action="healed"}', "0", "1"),
        ("SeawayAuditMissing", 'seaway_audit_missing_events{stream="SEA_EVENTS"}', "0", "1"),
        ("SeawayAuditNoEffect", f"seaway_audit_no_effect_events{labels}", "0", "1"),
    ]
    tests: list[dict[str, Any]] = [
        {
            "interval": "15s",
            "input_series": [
                {"series": series, "values": f"{value}{'x20' if '+' in value else '+0x20'}"}
            ],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}"}}) or vector(0)',
                    "eval_time": "4m",
                    "exp_samples": [{"labels": "{}", "value": fires}],
                }
            ],
        }
        for name, series, at, above in cases
        for value, fires in ((at, 0), (above, 1))
    ]
    # What nobody has ever taken from is told by `seaway check`, and alarms nobody.
    quiet = copy.deepcopy(tests[1])
    quiet["input_series"].append({"series": unused, "values": "1+0x20"})
    quiet["promql_expr_test"][0]["exp_samples"][0]["value"] = 0
    tests.append(quiet)
    (tmp_path / "alerts.rules.yml").write_text(alert_rules(AlertSettings()))
    plan = {"rule_files": ["alerts.rules.yml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(plan))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
