"""What a person sees: the phases, how far each has come, who was killed; then the verdict.

Owns: the drawing. Decides nothing. Guarantees: nothing but the report goes to stdout, and the
report only there; without a terminal the view is plain lines, one every two seconds at most.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seaway.demo.reconcile import Reconciliation

PLAIN_SECONDS = 2.0
PHASES = ("prepare", "write, relay, consume", "dead letters", "fix", "redrive", "reconcile")


@dataclass(slots=True)
class Progress:
    """Where the run stands; written by the run, read by the view."""

    title: str
    total: int
    phase: str = PHASES[0]
    written: int = 0
    relayed: int = 0
    handled: dict[str, int] = field(default_factory=dict)
    dead: int = 0
    pids: dict[str, int | None] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.began

    def bars(self) -> Mapping[str, int]:
        """What has come how far, of ``total``, in the order of an event's way."""
        return {"written": self.written, "relayed": self.relayed, **self.handled}


class View:
    """Shows ``progress`` until it is left: live on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._live: Live | None = None
        self._printed = 0.0
        self._rates: dict[str, deque[tuple[float, int]]] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._draw, refresh_per_second=6
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None:
            self._print(self._line())

    def say(self, text: str) -> None:
        """One line of news: a death, an outage, a stage."""
        moment = f"{self._progress.elapsed_seconds:6.1f} s  {text}"
        self._progress.notes.append(moment)
        if self._live is None:
            self._print(moment)

    def tick(self) -> None:
        """The figures have changed."""
        now = time.monotonic()
        for name, count in self._progress.bars().items():
            recent = self._rates.setdefault(name, deque())
            recent.append((now, count))
            while recent[0][0] < now - 3:
                recent.popleft()
        if self._live is None and now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self._print(self._line())

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _rate(self, name: str) -> float:
        recent = self._rates.get(name)
        if not recent or recent[-1][0] <= recent[0][0]:
            return 0.0
        (began, first), (ended, last) = recent[0], recent[-1]
        return (last - first) / (ended - began)

    def _line(self) -> str:
        progress = self._progress
        figures = "  ".join(f"{name} {count:,}" for name, count in progress.bars().items())
        return (
            f"{progress.elapsed_seconds:6.1f} s  {progress.phase}: {figures}"
            f"  of {progress.total:,}  dead letters {progress.dead}"
            f"  restarts {sum(progress.restarts.values())}"
        )

    def _draw(self) -> RenderableType:
        progress = self._progress
        reached = PHASES.index(progress.phase) if progress.phase in PHASES else 0
        phases = Text()
        for place, phase in enumerate(PHASES):
            style = "bold cyan" if place == reached else "green" if place < reached else "dim"
            mark = "✓ " if place < reached else "▸ " if place == reached else "· "
            phases.append(mark + phase + "   ", style=style)
        bars = Table.grid(padding=(0, 2))
        for name, count in progress.bars().items():
            done = count >= progress.total
            bars.add_row(
                name,
                ProgressBar(total=max(progress.total, 1), completed=count, width=36),
                Text(f"{count:,} / {progress.total:,}", style="green" if done else ""),
                Text(f"{self._rate(name):,.0f}/s", style="dim"),
            )
        children = Text("  ").join(
            Text(f"{name} pid {pid or '-'}", style="bold" if pid else "red")
            + Text(f" ({restarts} restarts)" if (restarts := progress.restarts.get(name)) else "")
            for name, pid in progress.pids.items()
        )
        head = Text(f"{progress.title}   {progress.elapsed_seconds:.0f} s", style="bold")
        last = Text(f"dead letters waiting: {progress.dead}")
        hint = Text("kill -9 any of these; Ctrl-C ends the demo", style="dim")
        notes = Text("\n".join(progress.notes), style="yellow")
        return Group(head, phases, Text(), bars, Text(), last, children, hint, notes)


def report(found: Reconciliation, *, faults: Mapping[str, int], took_seconds: float) -> Group:
    """The reconciliation as tables, and one line that says whether it is exact."""
    whole = Table.grid(padding=(0, 3))
    whole.add_column()
    whole.add_column(justify="right")
    for name, value in (
        ("cases", found.cases),
        ("events committed", found.events),
        ("transactions committed", found.transactions),
        ("events written, with those rolled back", found.written),
        ("events rolled back", found.rolled_back),
        ("events on the stream", found.on_stream),
        ("published a second time", found.sent_again),
        ("… suppressed by the stream", found.duplicates_suppressed_by_stream),
        ("… stored again under another message id", found.copies_on_stream),
        ("on the stream, never committed", found.unexpected),
        *faults.items(),
    ):
        whole.add_row(name, f"{value:,}")

    services = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    services.add_column("consumer")
    for service in found.services:
        services.add_column(service.durable, justify="right")
    rows: list[tuple[str, list[str]]] = [
        (name, [f"{getattr(service, attribute):,}" for service in found.services])
        for name, attribute in (
            ("events handled", "handled"),
            ("copies suppressed by the inbox", "duplicates_suppressed"),
            ("dead-lettered", "dead_lettered"),
            ("redriven", "redriven"),
            ("still in the dead letter queue", "left_dead"),
            ("late by redrive (not out of order)", "late_by_redrive"),
            ("projection off by", "projection_off"),
            ("lost", "lost"),
            ("duplicated", "duplicated"),
            ("out of order", "out_of_order"),
        )
    ]
    rows += [
        ("commit to effect, p50", [_seconds(s.latency_p50_seconds) for s in found.services]),
        ("commit to effect, p99", [_seconds(s.latency_p99_seconds) for s in found.services]),
    ]
    for name, values in rows:
        services.add_row(name, *values)
    return Group(whole, Text(), services, Text(), verdict(found, took_seconds))


def verdict(found: Reconciliation, took_seconds: float) -> Text:
    """``exact: lost 0, duplicated 0, out of order 0`` and what it was about."""
    counts = (
        f"lost {found.lost:,}, duplicated {found.duplicated:,}, out of order {found.out_of_order:,}"
    )
    about = f"{found.events:,} events, {found.cases:,} cases, {took_seconds:.1f} s"
    if found.exact:
        return Text(f"{about}\nexact: {counts}", style="bold green")
    more = f", unexpected {found.unexpected:,}" if found.unexpected else ""
    return Text(f"{about}\nNOT EXACT: {counts}{more}", style="bold red")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"
