"""Hints name the savepoint of the handle that the user has."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlalchemy.orm import Session

from seaway.databases.savepoints import ended_by_body, undoing


class Own(Session):
    """Of a user's own module."""


def test_the_way_is_the_handles_own() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        assert undoing(db) == "SAVEPOINT and ROLLBACK TO"
    assert undoing(Own()) == "a block of begin_nested()"
    assert undoing(object()) == "a savepoint"
    assert str(ended_by_body(Own())).endswith("a part is undone by a block of begin_nested())")
