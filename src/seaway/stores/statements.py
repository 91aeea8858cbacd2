"""Named statements out of ``.sql`` files.

Owns: reading ``-- name: claim`` blocks. Must not know any driver. Guarantees: a block is there
when the module that needs it is imported, or the import fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from seaway.tables import within

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(path: str, schema: str | None = None) -> Mapping[str, str]:
    """The blocks of ``stores/sql/{path}``, by name, without what stands before the first.

    ``schema``: where the tables are; ``None`` leaves that to the connection's search path.
    """
    text = files("seaway.stores").joinpath("sql", path).read_text("utf-8")
    _, *parts = _NAME.split(text)
    bodies = (within(body.strip(), schema) for body in parts[1::2])
    return dict(zip(parts[::2], bodies, strict=True))
