"""What caused what as rows from top to bottom, many alike folded into one. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from seaway.history.trace.values import BAD, Member, Trace

ALIKE = 4
"""More events of one kind under one cause are folded."""
DEEP = 12
ROWS = 200

_LATE = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class Row:
    """A line of the tree: one event, or many of a kind. ``depth`` counts causes."""

    depth: int
    members: list[Member] = field(default_factory=list)
    below: Counter[str] = field(default_factory=Counter)
    """Of a fold: how many events of which kind they caused."""
    bad: int = 0

    @property
    def one(self) -> Member | None:
        """The event, where it is no fold."""
        return self.members[0] if len(self.members) == 1 and not self.below else None

    @property
    def states(self) -> Counter[str]:
        """What became of those of a fold."""
        return Counter(one.state for one in self.members)


def rows(trace: Trace, *, everything: bool = False) -> list[Row]:
    """Each cause before what it caused, in the order of their times. The event that was asked for
    and what led to it are never folded."""
    children: dict[str | None, list[Member]] = {}
    for member in trace.members.values():
        children.setdefault(member.parent, []).append(member)
    for some in children.values():
        some.sort(key=lambda one: (one.at or _LATE, one.event_id))
    focus: set[str] = set()
    here = trace.members.get(trace.wanted)
    while here is not None:
        focus.add(here.event_id)
        here = trace.members.get(here.parent or "")
    found: list[Row] = []
    stack: list[tuple[int, list[Member], bool]] = [(0, children.get(None, []), False)]
    while stack:
        depth, some, folded = stack.pop()
        if folded:
            found.append(_fold(depth, some, children))
            continue
        full = not everything and (depth > DEEP or len(found) > ROWS)
        if len(some) == 1 and (not full or some[0].event_id in focus):
            found.append(Row(depth, some))
            below = children.get(some[0].event_id, [])
            if below:
                stack.append((depth + 1, below, False))
            continue
        kinds: dict[str, list[Member]] = {}
        for one in some:
            kinds.setdefault(one.subject if one.event_id not in focus else one.event_id, []).append(
                one
            )
        todo: list[tuple[int, list[Member], bool]] = []
        for alike in kinds.values():
            if (full and alike[0].event_id not in focus) or (len(alike) > ALIKE and not everything):
                todo.append((depth, alike, True))
            else:
                todo += [(depth, [one], False) for one in alike]
        stack += reversed(todo)
    return found


def _fold(depth: int, some: list[Member], children: dict[str | None, list[Member]]) -> Row:
    row = Row(depth, some)
    stack = list(some)
    while stack:
        one = stack.pop()
        row.bad += one.state in BAD
        below = children.get(one.event_id, [])
        row.below.update(child.subject for child in below)
        stack += below
    return row
