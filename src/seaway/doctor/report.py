"""Findings with their words, as a report for people, for machines and as Markdown; and the page of
all that there are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from seaway.doctor.gather import Gathered
from seaway.doctor.rules import Limits, Seen, judge
from seaway.doctor.table import BY_CODE, ENTRIES, FAMILIES, Entry, Need, Weight
from seaway.errors import ConfigError
from seaway.words import counted, nearest

_WORST_FIRST = tuple(Weight)
_LOOKED_FOR: dict[Need, str] = {
    "server": "the server",
    "database": "the database",
    "processes": "what processes say of themselves",
    "application": "an application (`--app module:app`)",
    "monitoring": "the server's monitoring (`--monitoring URL`)",
    "role": "a role (`--role ROLE`)",
}


@dataclass(frozen=True, slots=True)
class Ailment:
    """A finding, in words."""

    entry: Entry
    subject: str
    weight: Weight
    seen: str
    mend: str

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.entry.code,
            "weight": str(self.weight),
            "title": self.entry.title,
            "subject": self.subject,
            "seen": self.seen,
            "why": self.entry.why,
            "mend": self.mend,
        }


@dataclass(frozen=True, slots=True)
class Unexamined:
    """What was not looked for, and why."""

    entry: Entry
    reason: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The report: findings, the gravest first; what was not examined; what was left out."""

    ailments: Sequence[Ailment]
    unexamined: Sequence[Unexamined]
    skipped: Sequence[str] = ()
    reachable: bool = True
    """Whether the server or the database answered."""

    @property
    def grave(self) -> bool:
        """Whether anything of it is more than advice."""
        return any(one.weight is not Weight.ADVICE for one in self.ailments)

    @property
    def exit_code(self) -> int:
        """3 where nothing could be reached, 1 where something is grave."""
        return 3 if not self.reachable else int(self.grave)

    @property
    def examined(self) -> int:
        """How many codes were looked for."""
        out = {one.entry.code for one in self.unexamined} | set(self.skipped)
        return len(BY_CODE.keys() - out)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "worst": str(self.ailments[0].weight) if self.ailments else None,
            "examined": self.examined,
            "findings": [one.as_json() for one in self.ailments],
            "not_examined": [
                {"code": one.entry.code, "title": one.entry.title, "reason": one.reason}
                for one in self.unexamined
            ],
            "skipped": list(self.skipped),
        }


def diagnose(
    found: Gathered, *, skip: Collection[str] = (), limits: Limits | None = None
) -> Diagnosis:
    """Judge what was gathered. ``skip``: codes that are left out."""
    skipped = sorted(known(code).code for code in skip)
    ailments = [_worded(one) for one in judge(found, limits) if one.code not in skipped]
    ailments.sort(key=lambda one: _WORST_FIRST.index(one.weight))
    said = {*skipped, *(one.entry.code for one in ailments)}
    unexamined = [
        Unexamined(entry, reason)
        for entry in ENTRIES
        if entry.code not in said and (reason := _why_not(entry, found))
    ]
    away = found.last.server_error is not None and "database" in found.away
    return Diagnosis(tuple(ailments), tuple(unexamined), tuple(skipped), not away)


def _worded(one: Seen) -> Ailment:
    entry = BY_CODE[one.code]
    weight = entry.weight or one.weight or Weight.WARNING
    seen, mend = (text.format(**one.values) for text in (entry.seen, entry.mend))
    return Ailment(entry, one.subject, weight, seen, mend or "worth knowing, nothing to mend")


def _why_not(entry: Entry, found: Gathered) -> str:
    reasons = [found.away[need] for need in entry.needs if need in found.away]
    return reasons[0] if reasons else found.unread.get(entry.code, "")


def known(code: str) -> Entry:
    """The entry of ``code``, in any case; ``ConfigError`` where there is none."""
    entry = BY_CODE.get(code.upper())
    if entry is None:
        near = nearest(code.upper(), BY_CODE)
        raise ConfigError(
            f"there is no finding {code!r}",
            hint=f"did you mean {near}?" if near else "seaway doctor --explain all lists them",
        )
    return entry


def grouped(found: Diagnosis) -> Iterator[list[Ailment]]:
    """Findings of one code and weight that the same mends, in the report's order."""
    for _, group in groupby(found.ailments, lambda one: (one.entry.code, one.weight, one.mend)):
        yield list(group)


# ------------------------------------------------------------------ Markdown


def markdown(found: Diagnosis) -> str:
    """The report, for a ticket or a page."""
    parts = ["# seaway doctor", summary(found)]
    for group in grouped(found):
        entry, seen = group[0].entry, "".join(f"- **Seen:** {_line(one.seen)}\n" for one in group)
        parts += [
            f"## {entry.code} {entry.title} ({group[0].weight})",
            f"{seen}- **Why it matters:** {entry.why}\n- **What mends it:** {_line(group[0].mend)}",
        ]
    if found.unexamined:
        parts += ["## Not examined", "| code | finding | why not |\n| --- | --- | --- |"]
        parts[-1] += "".join(
            f"\n| {one.entry.code} | {one.entry.title} | {_cell(one.reason)} |"
            for one in found.unexamined
        )
    return "\n\n".join(parts) + "\n"


def summary(found: Diagnosis) -> str:
    """One line."""
    counts = [
        counted(count, str(weight), "warnings" if weight is Weight.WARNING else str(weight))
        for weight in Weight
        if (count := sum(one.weight is weight for one in found.ailments))
    ]
    said = ", ".join(counts) or "nothing found"
    left = f", {len(found.skipped)} skipped" if found.skipped else ""
    return (
        f"{said}: {found.examined} of {len(BY_CODE)} findings were looked for, "
        f"{len(found.unexamined)} not examined{left}"
    )


def page() -> str:
    """``docs/reference/doctor.md``."""
    parts = [
        "# What the doctor finds",
        "Made by `seaway doctor --explain all`, from the table that the reports are made of. How "
        "to use it is in [watch a service](../how-to/monitor.md#ask-the-doctor).",
        "*critical*: something is lost, stands still, or cannot be done. *warning*: it will be, "
        "when something else goes wrong. *advice*: it could be better. The first two have the "
        "command exit with 1. What `seaway check` judges has the weight of its threshold.",
    ]
    family = ""
    for entry in ENTRIES:
        if entry.code[3] != family:
            family = entry.code[3]
            parts.append(f"## {FAMILIES[family]}")
        parts += _explained(entry, level=3)
    return "\n\n".join(parts) + "\n"


def explained(entry: Entry) -> str:
    """What the page says of one."""
    return "\n\n".join(_explained(entry, level=1)) + "\n"


def _explained(entry: Entry, *, level: int) -> Iterator[str]:
    needs = ", ".join(_LOOKED_FOR[one] for one in entry.needs)
    weight = str(entry.weight) if entry.weight else "as judged"
    mend = "what the check says" if _taken_over(entry.mend) else _blanks(entry.mend)
    rows = [
        f"- Weight: {weight}" + (f" by `seaway check` (`{entry.check}`)" if entry.check else ""),
        f"- Needs: {needs}" if needs else "",
        "" if _taken_over(entry.seen) else f"- Seen: {_blanks(entry.seen)}",
        f"- What mends it: {mend}",
    ]
    yield f"{'#' * level} {entry.code}"
    yield f"**{entry.title}.** {entry.why}"
    yield "\n".join(row for row in rows if row)


def _taken_over(text: str) -> bool:
    return text in ("{message}", "{next}")


def _blanks(text: str) -> str:
    """A template, its blanks as words."""
    return text.replace("{seconds:.1f}", "*seconds*").replace("{", "*").replace("}", "*")


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
