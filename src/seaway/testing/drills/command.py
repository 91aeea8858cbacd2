"""A drill as a program: options from its plan, progress on stderr, the report on stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)


class Report(Protocol):
    """What a drill tells in the end."""

    @property
    def passed(self) -> bool: ...

    def as_json(self) -> dict[str, Any]: ...


def carry_out(
    plan: P,
    options: Sequence[str],
    drill: Callable[..., Awaitable[Report]],
    *,
    about: str | None,
) -> int:
    """Run ``drill(plan, keep=..., said=...)`` as the command line says; 0 only if it was passed.

    ``options`` are fields of ``plan`` that are whole numbers, switches, or one of some words; its
    values are the defaults.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    for name in options:
        default = getattr(plan, name.replace("-", "_"))
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, str):
            choices = get_args(get_type_hints(type(plan))[name])
            parser.add_argument(f"--{name}", choices=choices, default=default)
        else:
            parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the processes' logs there")
    given = vars(parser.parse_args())
    keep = given.pop("keep")

    async def work() -> Report:
        return await drill(replace(plan, **given), keep=keep, said=_say)

    report = asyncio.run(work())
    print(json.dumps(report.as_json(), indent=2))
    return 0 if report.passed else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
