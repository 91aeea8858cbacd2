"""Keeps Alembic's autogenerate away from Seaway's tables. Needs no driver and no Alembic."""

from __future__ import annotations

from typing import Any

from seaway.tables import is_ours

__all__ = ["include_name", "include_object"]


def include_object(
    object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any
) -> bool:
    """For ``context.configure(include_object=...)``: false for Seaway's tables, else true.

    An application with a hook of its own asks both: ``seaway(*args) and mine(*args)``.
    """
    return include_name(name, type_)


def include_name(name: str | None, type_: str, parent_names: Any = None) -> bool:
    """For ``context.configure(include_name=...)``: the same before a table is reflected.

    Saves reading a partition a day; ``outbox_table`` on the compared metadata needs
    ``include_object`` all the same.
    """
    return not (type_ == "table" and name is not None and is_ours(name))
