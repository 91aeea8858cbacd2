"""What a run of redrives does, and did, as ``seaway dlq`` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import typer

from seaway.cli import printing
from seaway.cli.dlq.causes import what
from seaway.cli.dlq.reporting import event_name
from seaway.cli.printing import Column, print_fields, print_json, print_list, printable
from seaway.contracts import Run
from seaway.dead_letters.cause import Cause, cause_of
from seaway.mending import Outcome, PastRun, RedriveRun
from seaway.mending.past import known_count, sent_count
from seaway.mending.runs import FATES
from seaway.words import counted

_SHOWN = 20
"""Letters that are named in words, of each kind; a pipe and --json have all."""
_SAID = {
    "effect": "have their effect",
    "settled": "were acknowledged",
    "waits": "wait behind an earlier event of their key",
    "failed": "came back",
}


class Redriven:
    """What a run has said of its letters, as far as it is printed. ``behind``: how many letters
    wait for each consumer and key."""

    def __init__(self, behind: Mapping[tuple[str, str], int], as_json: bool) -> None:
        self._behind = behind
        self.as_json = as_json
        self.lines: list[str] = []
        self.summaries: dict[str, dict[str, Any]] = {}
        self.causes: dict[Cause, Counter[str]] = {}
        """What would become of the letters of each."""
        self._told = 0

    def take(self, one: Outcome) -> None:
        """Say at once what stays, and remember the others."""
        if one.letter is not None and one.became in ("ready", "stays"):
            self.causes.setdefault(cause_of(one.letter), Counter())[one.became] += 1
        if one.became in ("stays", "gone", "failed"):
            self._told += 1
            if self._told <= _SHOWN or not printing.out().is_terminal:
                word = "came back" if one.became == "failed" else "stays"
                of = "" if one.became == "stays" else f"{one.id}: "
                printing.note(f"{word if one.became != 'gone' else 'gone'}: {of}{one.detail}")
        if self.as_json:
            self._summarize(one)
        elif one.became in ("sent", "ready"):
            follow = ""
            if count := self._behind_of(one):
                follow = f"  {count} behind it {'follows' if count == 1 else 'follow'} in order"
            self.lines.append(f"{one.id}  {one.event_id}  {one.consumer}{follow}")

    def _behind_of(self, one: Outcome) -> int:
        letter = one.letter
        if letter is None or letter.waits:
            return 0
        return self._behind.get((letter.consumer, letter.key), 0)

    def _summarize(self, one: Outcome) -> None:
        known = self.summaries.get(one.id)
        if known is None:
            known = {"id": one.id, "event_id": one.event_id, "consumer": one.consumer}
            if one.letter is not None:
                known = one.letter.summary() | {"waiting": self._behind_of(one)}
            self.summaries[one.id] = known
        known |= {"became": one.became, "detail": one.detail or None}

    def print_lines(self) -> None:
        """The letters that were sent, or would be."""
        shown = self.lines
        if printing.out().is_terminal and len(shown) > _SHOWN:
            shown = shown[:_SHOWN]
        for line in shown:
            typer.echo(printable(line))
        if left := len(self.lines) - len(shown):
            printing.note(f"and {left} more: a pipe or --json has them.")

    def report(self, run: RedriveRun) -> None:
        """What was done."""
        if self.as_json:
            done = ("sent", *FATES)
            print_json([one for one in self.summaries.values() if one["became"] in done])
        else:
            self.print_lines()
        sent = run.counts["sent"]
        said = [f"{run.counts[one]} {said}" for one, said in _SAID.items() if run.counts[one]]
        if run.counts["stays"]:
            said.append(f"{run.counts['stays']} stay")
        how = "redriven" if run.at is None else _then(run.at)
        printing.note(f"{sent} {how}{': ' if said else ''}{', '.join(said)}.")
        if run.id:
            again = {
                "stopped": "; the same command goes on",
                "failed": "; once that is mended, the same command begins anew",
            }.get(run.state, "")
            why = f": {run.why}" if run.why else ""
            printing.note(f"run {run.id} {run.state}{why}{again}")


def print_forecast(found: Redriven, run: RedriveRun) -> None:
    """What would be done, letter by letter where there are few, and by cause."""
    if found.as_json:
        print_json([*found.summaries.values()])
    else:
        if len(found.lines) <= _SHOWN:
            found.print_lines()
        if len(found.causes) > 1 or len(found.lines) > _SHOWN:
            print_list(_CAUSES, sorted(found.causes.items(), key=lambda one: -one[1].total()))
    stay = run.counts["stays"]
    when = "be redriven" if run.at is None else _then(run.at).removeprefix("to ")
    ready = run.counts["ready"]
    printing.note(f"{ready} would {when}{f', {stay} would stay' if stay else ''}.")
    if run.id:
        printing.note(f"That goes on with run {run.id}.")


def _then(at: datetime) -> str:
    return f"to be redriven at {at.astimezone():%Y-%m-%d %H:%M:%S %z}"


_CAUSES: Sequence[Column[tuple[Cause, Counter[str]]]] = (
    Column("WOULD GO", lambda one: str(one[1]["ready"]), right=True),
    Column("STAY", lambda one: str(one[1]["stays"] or ""), right=True),
    Column("CAUSE", lambda one: one[0].id),
    Column("EVENT", lambda one: event_name(one[0].subject), rank=1),
    Column("ERROR", lambda one: what(one[0]), words=True),
)

_RUNS: Sequence[Column[Run]] = (
    Column("RUN", lambda one: one.run),
    Column("STATE", lambda one: one.state),
    Column("SENT", lambda one: str(sent_count(one)), right=True),
    Column("KNOWN", lambda one: str(known_count(one)), right=True, rank=3),
    Column("BACK", lambda one: str(one.progress.get("failed", 0) or ""), right=True, rank=2),
    Column("BY", lambda one: one.by, rank=4),
    Column("WHAT", lambda one: str(one.plan.get("what", "")), words=True),
)


def print_runs(runs: Sequence[Run]) -> None:
    """Runs, the newest first."""
    if runs:
        print_list(_RUNS, runs)
    else:
        printing.note("No runs.")


def print_run(past: PastRun) -> None:
    """One run, and what became of its letters by now."""
    run = past.run
    when = f"{run.begun_at:%Y-%m-%d %H:%M:%S}" if run.begun_at else "?"
    if run.ended_at:
        when += f", ended {run.ended_at:%Y-%m-%d %H:%M:%S}"
    fields = [
        ("state", f"{run.state}: {run.progress['why']}" if "why" in run.progress else run.state),
        ("begun", f"{when} by {run.by or '?'}"),
        ("what", f"{run.plan.get('what', '')}, to {run.plan.get('to', '')}"),
    ]
    if transform := run.plan.get("transform"):
        fields.append(("transform", str(transform)))
    print_fields(printable(f"run {run.run}"), [(name, printable(text)) for name, text in fields])
    if past.counts:
        print_list(_OUTCOMES, sorted(past.counts.items()))
    if past.unknown:
        printing.note(f"What became of those sent is not known now: {past.unknown}")
    for state, word in (("failed", "came back"), ("stays", "stays"), ("gone", "gone")):
        some = [one for one in past.items if one.state == state]
        for one in some[:_SHOWN]:
            typer.echo(printable(f"{word}: {one.item}: {one.detail}"))
        if len(some) > _SHOWN:
            printing.note(f"and {counted(len(some) - _SHOWN, 'other')}: --json has them.")


def _outcome(title: str, state: str, rank: int = 0) -> Column[tuple[str, Counter[str]]]:
    return Column(title, lambda one: str(one[1][state] or ""), right=True, rank=rank)


_OUTCOMES: Sequence[Column[tuple[str, Counter[str]]]] = (
    Column("CONSUMER", lambda one: one[0]),
    _outcome("EFFECT", "effect"),
    _outcome("BACK", "failed"),
    _outcome("UNDER WAY", "sent"),
    _outcome("SETTLED", "settled", 1),
    _outcome("WAIT", "waits", 2),
    _outcome("STAY", "stays"),
    _outcome("GONE", "gone", 3),
)
