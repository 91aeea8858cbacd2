"""The page about watching shows what `seaway check` says of a relay that waits."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from seaway.config import AlertSettings
from seaway.contracts import Notice, ServerInfo
from seaway.monitor import Snapshot, evaluate

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md"


def test_what_waits_is_said_as_the_page_shows_it() -> None:
    found = re.search(r"\$ seaway check\n(warning  relay waits.*?)```", PAGE.read_text(), re.S)
    assert found
    told, advice, last = found[1].splitlines()
    reason = told.partition("3m 2s: ")[2]
    waits = Notice("relay", "SEA_EVENTS", reason, timedelta(seconds=182), process="web-1:4711:1")
    snapshot = Snapshot(
        datetime.now(UTC), server=ServerInfo("2.15.1", True, 1 << 20), processes=(waits,)
    )
    report = evaluate(snapshot, AlertSettings())
    (finding,) = report.told
    assert told == f"{finding.state.label:<8} {finding.message}"
    assert advice.strip() == f"next: {finding.next_move}"
    assert last.startswith(f"{report.state.label}: ")
