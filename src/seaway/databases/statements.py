"""Named statements out of ``.sql`` files, and the same for drivers that name their parameters.

Owns: reading ``-- name: claim`` blocks of ``seaway.stores``. Guarantees: a block is there when the
module that needs it is imported, or the import fails; no driver has a statement of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from seaway.tables import within

_PARAMETER = re.compile(r"\$(\d)")
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(path: str, schema: str | None = None) -> Mapping[str, str]:
    """The blocks of ``stores/sql/{path}``, by name, without what stands before the first.

    ``schema``: where the tables are; ``None`` leaves that to the connection's search path.
    """
    text = files("seaway.stores").joinpath("sql", path).read_text("utf-8")
    _, *parts = _NAME.split(text)
    bodies = (within(body.strip(), schema) for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))


@lru_cache(maxsize=64)
def named(statement: str, form: str) -> str:
    """``statement`` with a name for each parameter: ``form`` is ``:{}`` or ``%({})s``."""
    return _PARAMETER.sub(lambda found: form.format(f"p{found[1]}"), statement)


def by_name(*parameters: Any) -> Mapping[str, Any]:
    """The parameters of a ``named`` statement."""
    return {f"p{place}": value for place, value in enumerate(parameters, 1)}
