"""Named statements out of ``.sql`` files.

Owns: reading ``-- name: claim`` blocks. Must not know any driver. Guarantees: a block is there
when the module that needs it is imported, or the import fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(path: str) -> Mapping[str, str]:
    """The blocks of ``stores/sql/{path}``, by name, without what stands before the first."""
    text = files("seaway.stores").joinpath("sql", path).read_text("utf-8")
    _, *parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
