"""The command: chooses, runs, prints the tables on stdout and writes ``bench/results/*.json``.

    make bench                                        # everything but the sizes
    make bench ARGS="--only relay --rounds 5"
    make bench ARGS="--sizes"                         # one backlog small, one large
    make bench ARGS="--quick"                         # does everything run? Its figures say little

Everything stays on loopback and is bounded by the numbers of events.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import machine, table
from bench.catalogue import GROUPS, RELAY, Contender, Group
from bench.driver import OWN_PYTHON, PEERS_PYTHON, compare

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3
QUICK = 0.05


def arguments() -> argparse.Namespace:
    """The command line, read."""
    full = RELAY.contenders[0].events
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        *("--events", "-n"),
        type=int,
        help=f"events of a fast relay, the others in proportion (default: {full})",
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of each (default: {ROUNDS})")
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only what has TEXT in its 'group: name'; may be repeated",
    )
    parser.add_argument("--sizes", action="store_true", help="a small and a large backlog, alone")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything, one round")
    return parser.parse_args()


def chosen(only: Sequence[str] | None, *, sizes: bool) -> list[Group]:
    """The groups with what was asked for; empty ones are left out."""
    groups = []
    for group in GROUPS:
        if group.default is sizes:
            continue
        contenders = [
            contender
            for contender in group.contenders
            if not only or any(text in f"{group.name}: {contender.name}" for text in only)
        ]
        if contenders:
            groups.append(dataclasses.replace(group, contenders=contenders))
    return groups


def main() -> int:
    """Exit code: 0; 1 where a contender failed; 2 for a usage error."""
    options = arguments()
    err = Console(stderr=True, highlight=False)
    groups = chosen(options.only, sizes=options.sizes)
    if not groups:
        err.print("nothing is called so; the names are:")
        for group in GROUPS:
            for contender in group.contenders:
                err.print(f"  {group.name}: {contender.name}")
        return 2
    shrunk = QUICK if options.quick else 1.0
    wished = options.events / RELAY.contenders[0].events if options.events else shrunk
    rounds = options.rounds or (1 if options.quick else ROUNDS)

    def count(group: Group, contender: Contender) -> int:
        return max(2, round(contender.events * (wished if group.scaled else shrunk)))

    contenders = [contender for group in groups for contender in group.contenders]
    environments = [("seaway", OWN_PYTHON), ("peers", PEERS_PYTHON)]
    measured_on = machine.describe(
        environments[: 1 + any(contender.peer for contender in contenders)],
        postgres=any(contender.postgres for contender in contenders),
    )
    began = datetime.now(UTC)
    comparisons = compare(groups, rounds=rounds, count=count, tell=err.print)
    table.show(Console(), comparisons, rounds)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{began:%Y%m%dT%H%M%SZ}.json"
    content = {
        "at": began.isoformat(),
        "rounds": rounds,
        "machine": measured_on,
        "groups": table.as_json(comparisons),
    }
    file.write_text(json.dumps(content, indent=2) + "\n")
    err.print(f"written to {file}")
    failed = any(entry.error for comparison in comparisons for entry in comparison.entries)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
