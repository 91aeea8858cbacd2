"""A trace as a picture: lanes for services, arrows for events, failures in colour.

Owns: the drawing. Pure. Guarantees: no script, nothing fetched, every text escaped; as wide as its
place, from 390 px on; light or dark as the reader's screen is. Places across are shares of the
width, places down are pixels, so that letters keep their size.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from xml.sax.saxutils import escape

from seaway.history.trace.text import clock, span, unreached
from seaway.history.trace.tree import Row, rows
from seaway.history.trace.values import BAD, OPEN, PUBLISHED, WAS_LETTER, Trace
from seaway.words import counted

LANES = 6
_OTHERS = "others"
_TOLD = 54
_TOP, _ROW = 104, 24

_STYLE = """
.trace{--bg:#fbfcfe;--ink:#16202e;--dim:#66748a;--line:#d9e0ea;--event:#2f6fde;--good:#16834a;
--bad:#d32f3c;--open:#b26a00;background:var(--bg);
font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media (prefers-color-scheme:dark){.trace{--bg:#0f1622;--ink:#e8eef8;--dim:#93a2b8;--line:#28344a;
--event:#76a9ff;--good:#4cc38a;--bad:#ff6f76;--open:#f0b356}}
.bg{fill:var(--bg)}text{fill:var(--ink)}
.halo{paint-order:stroke;stroke:var(--bg);stroke-width:5px;stroke-linejoin:round}
.title{font-size:15px;font-weight:650}.dim{fill:var(--dim);font-size:11.5px}
.name{font-weight:600}.lane{font-weight:600;text-anchor:middle;font-size:12px}
.mid{text-anchor:middle}.end{text-anchor:end}.mono{font-family:ui-monospace,Menlo,Consolas,monospace}
.life{stroke:var(--line);stroke-width:1.5}.rule{stroke:var(--line)}
.event{stroke:var(--event);stroke-width:1.8}.wait{stroke:var(--event);stroke-width:6;
stroke-linecap:round;opacity:.35}.cause{stroke:var(--dim);stroke-width:1.2;stroke-dasharray:3 4}
.f-event{fill:var(--event)}.f-good{fill:var(--good)}.f-bad{fill:var(--bad)}.f-open{fill:var(--open)}
.f-past{fill:var(--bg);stroke:var(--bad);stroke-width:2}.s-past{stroke:var(--bad)}
.s-good{stroke:var(--good)}.s-bad{stroke:var(--bad)}.s-open{stroke:var(--open)}
.stay{stroke-width:1.8;stroke-dasharray:2 3}.told{font-size:12px}
.many{stroke-width:5}@media (max-width:600px){.wide{display:none}}
"""


def drawn(trace: Trace, *, everything: bool = False) -> str:
    """The whole SVG document."""
    found = rows(trace, everything=everything)
    return _Drawing(trace, found).document()


class _Drawing:
    def __init__(self, trace: Trace, found: list[Row]) -> None:
        self._trace, self._rows = trace, found
        self._lanes = _lanes(found)
        self._y = _TOP
        self._shapes: list[str] = []
        self._texts: list[str] = []
        self._published: dict[str, tuple[str, int]] = {}

    def document(self) -> str:
        for row in self._rows:
            self._block(row)
        bottom = self._y + 6
        for line in (*self._trace.notes, *unreached(self._trace)):
            self._y += 20
            self._say("12", self._y, _cut(line, 110), "f-open")
        height = self._y + 44
        head = [
            '<svg xmlns="http://www.w3.org/2000/svg" class="trace" width="100%"'
            f' height="{height}">',
            f"<title>{_text('Trace of ' + self._trace.wanted)}</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="to" viewBox="0 0 8 8" refX="13" refY="4" markerWidth="8"'
            ' markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
            '<path class="f-event" d="M0 0L8 4L0 8z"/></marker></defs>',
            '<rect class="bg" width="100%" height="100%"/>',
        ]
        lanes = [
            f'<line class="life" x1="{x}" x2="{x}" y1="{_TOP - 24}" y2="{bottom}"/>'
            for x in map(self._x, self._lanes)
        ]
        return "\n".join(
            [
                *head,
                *self._head(),
                *lanes,
                *self._shapes,
                *self._texts,
                *self._legend(height),
                "</svg>",
            ]
        )

    def _head(self) -> Iterator[str]:
        trace = self._trace
        told = counted(len(trace.members), "event")
        if trace.times is not None:
            first, last = trace.times
            told += f" · {first:%Y-%m-%d} {clock(first)} UTC · {span(last - first)[1:]}"
        yield f'<text x="12" y="26" class="title">{_text(_cut(trace.correlation_id, 42))}</text>'
        yield f'<text x="12" y="44" class="dim">{_text(told)}</text>'
        for name in self._lanes:
            shown = _text(_cut(name, 15))
            yield f'<text x="{self._x(name)}" y="{_TOP - 32}" class="lane">{shown}</text>'

    def _legend(self, height: int) -> Iterator[str]:
        y = height - 16
        for x, kind, word in (
            ("14", "f-good", "handled"),
            ("25%", "f-bad", "needs a look"),
            ("54%", "f-open", "to come"),
            ("76%", "f-event", "published"),
        ):
            yield f'<circle cx="{x}" cy="{y - 4}" r="4" class="{kind}"/>'
            yield f'<text x="{x}" y="{y}" dx="9" class="dim">{word}</text>'

    def _block(self, row: Row) -> None:
        one = row.one
        first = row.members[0]
        lane = self._lane(first.context)
        self._y += 30
        self._shapes.append(
            f'<line class="rule" x1="0" x2="100%" y1="{self._y - 20}" y2="{self._y - 20}"/>'
        )
        label = first.name if one else f"{len(row.members)} × {first.name}"
        self._say("12", self._y, _cut(label, 44), "name halo", first.subject)
        if one is None:
            self._fold(row, lane)
            return
        self._y += 15
        self._say("12", self._y, _cut(one.event_id, 36), "dim mono halo")
        if one.flaw:
            self._y += 17
            self._say("12", self._y, _cut(one.flaw, _TOLD), "f-open halo")
        start: int | None = None
        there: int | None = None
        before: dict[str, int] = {}
        for step in one.steps:
            self._y += _ROW
            kind = _kind(step.what)
            title = f"{step.what} {step.where} {clock(step.at)} {span(step.took)} {step.detail}"
            if "__" in step.where:
                to = self._lane(step.where.partition("__")[0])
                if (above := before.get(step.where)) is not None:
                    self._line(f"stay s-{kind}", to, above, to, self._y)
                    self._dot(to, self._y, kind, title)
                else:
                    self._arrow(lane, there or start or self._y, to, self._y, kind, title)
                before[step.where] = self._y
            else:
                if start is None and one.parent in self._published:
                    self._cause(one.parent or "", lane)
                if start is not None:
                    self._line("wait", lane, start, lane, self._y)
                self._dot(lane, self._y, kind if kind != "good" else "event", title)
                if step.what in PUBLISHED:
                    there = self._y
                    self._published[one.event_id] = lane, self._y
                start = self._y
            told = " ".join(part for part in (step.what, span(step.took)) if part)
            self._say(
                "100%",
                self._y + 4,
                told,
                f"end halo {'dim' if kind in ('good', 'past') else 'f-' + kind}",
                dx=-12,
            )
            if step.detail and kind in ("bad", "open"):
                for line in textwrap.wrap(step.detail, _TOLD, max_lines=2, placeholder=" …"):
                    self._y += 17
                    self._say("12", self._y + 2, line, f"f-{kind} told halo", step.detail)

    def _fold(self, row: Row, lane: str) -> None:
        self._y += _ROW
        there = self._y
        self._dot(lane, there, "event", "published")
        for service in sorted({n.partition("__")[0] for n in _durables([row])}):
            self._y += _ROW
            kind = "bad" if row.bad else "good"
            self._arrow(lane, there, self._lane(service), self._y, kind, "", many=True)
        for state, count in row.states.most_common():
            self._y += 18
            self._say("100%", self._y + 4, f"{count} {state}", f"end halo f-{_kind(state)}", dx=-12)
        for subject, count in row.below.most_common(5):
            self._y += 18
            self._say("12", self._y, _cut(f"led to {count} × {subject}", _TOLD), "dim halo")

    # ------------------------------------------------------------------- shapes

    def _x(self, lane: str) -> str:
        return f"{100 * (self._lanes.index(lane) + 0.5) / (len(self._lanes) + 0.9):.2f}%"

    def _lane(self, service: str) -> str:
        return service if service in self._lanes else self._lanes[-1]

    def _line(self, kind: str, lane: str, y: int, to: str, end: int) -> None:
        across = f'x1="{self._x(lane)}" y1="{y}" x2="{self._x(to)}" y2="{end}"'
        tip = ' marker-end="url(#to)"' if kind.startswith("event") else ""
        self._shapes.append(f'<line class="{kind}" {across}{tip}/>')

    def _arrow(
        self, lane: str, y: int, to: str, end: int, kind: str, title: str, *, many: bool = False
    ) -> None:
        if to != lane:
            strokes = f"event s-{kind}" if kind != "good" else "event"
            self._line(f"{strokes}{' many' if many else ''}", lane, y, to, end)
        self._dot(to, end, kind, title)

    def _dot(self, lane: str, y: int, kind: str, title: str) -> None:
        x = self._x(lane)
        told = f"<title>{_text(title)}</title>"
        if kind == "bad":
            place = f'x="{x}" y="{y - 6}" transform="translate(-6 0)"'
            square = f'<rect {place} width="12" height="12" rx="2" class="f-bad">'
            self._texts.append(f"{square}{told}</rect>")
        else:
            self._texts.append(f'<circle cx="{x}" cy="{y}" r="5" class="f-{kind}">{told}</circle>')

    def _cause(self, parent: str, lane: str) -> None:
        above, y = self._published[parent]
        self._line("cause", above, y, lane, self._y)

    def _say(self, x: str, y: int, text: str, kind: str, title: str = "", dx: int = 0) -> None:
        told = f"<title>{_text(title)}</title>" if title else ""
        move = f' dx="{dx}"' if dx else ""
        self._texts.append(f'<text x="{x}" y="{y}"{move} class="{kind}">{told}{_text(text)}</text>')


def _lanes(found: list[Row]) -> list[str]:
    names: dict[str, None] = {}
    for row in found:
        for one in row.members:
            names[one.context] = None
            for step in one.steps:
                if "__" in step.where:
                    names[step.where.partition("__")[0]] = None
    listed = list(names) or ["?"]
    return listed if len(listed) <= LANES else [*listed[: LANES - 1], _OTHERS]


def _durables(found: list[Row]) -> set[str]:
    return {s.where for row in found for one in row.members for s in one.steps if "__" in s.where}


def _kind(what: str) -> str:
    if what in BAD:
        return "bad"
    if what == WAS_LETTER:
        return "past"
    return "open" if what in OPEN else "good"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(text: str) -> str:
    """What XML may hold, and no markup."""
    return escape("".join(c if c.isprintable() else "�" for c in text), {'"': "&quot;"})
