"""The page about consumers has all that a handler is given."""

from __future__ import annotations

import re
from pathlib import Path

from seaway import Delivery

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "consumers.md"


def test_it_has_every_attribute_of_a_delivery_and_no_other() -> None:
    section = PAGE.read_text().partition("\n## What a handler is given\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(?:await )?([a-z_]+)", row)]
    assert sorted(named) == sorted(name for name in vars(Delivery) if not name.startswith("_"))
