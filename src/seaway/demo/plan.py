"""What a run is about: decided from what was asked for and from what a folder already holds. Pure,
but for reading a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from seaway.demo.log import XES, Columns, survey
from seaway.demo.scenario import Change, case_changes, log_changes, transactions
from seaway.errors import ConfigError

ROWS_IN_A_TRANSACTION = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about. ``log`` is ``None`` for the simulated service."""

    log: str | None
    cases: int
    events: int
    seed: int
    group: int
    """Changes in one transaction."""
    columns: Columns = XES
    """What the log's columns are called."""
    layout: int = 2
    """Of the databases: another version of the demo cannot go on with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``seaway demo`` was asked for. ``None``: as the folder says, else the default."""

    log: Path | None = None
    columns: Columns = XES
    cases: int | None = None
    seed: int | None = None
    chaos: bool = False
    outage: timedelta = timedelta(seconds=10)


def decide_plan(options: Options, saved: Plan | None) -> Plan:
    """What to do, from the options and from what a folder already holds.

    Reads a log to its end, and refuses it by the line (``ConfigError``).
    """
    if options.log is not None and options.cases is not None:
        raise ConfigError("a log brings its own cases", hint="give either --log or --cases")
    seed = options.seed if options.seed is not None else saved.seed if saved else 1
    if options.log is None and options.columns != XES:
        raise ConfigError("--case, --activity and --time name the columns of a --log")
    log, columns = options.log.resolve() if options.log is not None else None, options.columns
    if log is None and options.cases is None and saved is not None and saved.log:
        log, columns = Path(saved.log), saved.columns
    if log is not None:
        found = survey(log, columns)
        # A small log in small transactions, so that it too has a middle.
        group = max(1, min(ROWS_IN_A_TRANSACTION, found.rows // 40))
        return Plan(str(log), found.cases, found.rows, seed, group, columns)
    cases = options.cases if options.cases is not None else saved.cases if saved else 1000
    events = sum(len(change.events) for change in case_changes(cases, seed))
    return Plan(None, cases, events, seed, 1)


def planned(plan: Plan) -> Iterator[tuple[Change, ...]]:
    """The transactions of ``plan``, always the same ones in the same order."""
    if plan.log is None:
        return transactions(case_changes(plan.cases, plan.seed), plan.group)
    log = Path(plan.log)
    return transactions(
        log_changes(log, survey(log, plan.columns).event_names, plan.columns), plan.group
    )
