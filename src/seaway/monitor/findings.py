"""Findings: what was judged, its value and threshold, and the next move; and their report. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class State(IntEnum):
    """A finding's state; the values are the exit codes of a Nagios plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def label(self) -> str:
        """Lower case: ``ok``, ``warning``, ``critical``, ``unknown``."""
        return self.name.lower()


# Not being able to look is worse than a warning that was seen.
WORST_LAST = (State.OK, State.WARNING, State.UNKNOWN, State.CRITICAL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one subject. ``next_move`` is a command or an act, empty where all is well.

    One that is ok and has a next move is told all the same: nothing is wrong, and it is worth
    knowing.
    """

    check: str
    subject: str
    state: State
    message: str
    value: float | None = None
    warning: float | None = None
    critical: float | None = None
    next_move: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst state: critical before unknown before warning before ok."""
        return max((f.state for f in self.findings), key=WORST_LAST.index, default=State.UNKNOWN)

    def as_json(self) -> dict[str, Any]:
        """The report for JSON; states as words."""
        return {
            "state": self.state.label,
            "findings": [asdict(f) | {"state": f.state.label} for f in self.findings],
        }

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not ok."""
        return tuple(finding for finding in self.findings if finding.state is not State.OK)

    @property
    def told(self) -> tuple[Finding, ...]:
        """What a person is told: the problems, and what is ok and yet worth knowing."""
        return tuple(one for one in self.findings if one.state is not State.OK or one.next_move)


def judge(
    check: str,
    subject: str,
    value: float,
    warning: float,
    critical: float | None,
    message: str,
    next_move: str,
) -> Finding:
    """A finding by its thresholds, which are exceeded strictly."""
    state = State.OK
    if critical is not None and value > critical:
        state = State.CRITICAL
    elif value > warning:
        state = State.WARNING
    move = next_move if state is not State.OK else ""
    return Finding(check, subject, state, message, value, warning, critical, move)
