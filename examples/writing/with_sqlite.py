"""SEAWAY_CONFIG=../seaway.yaml python with_sqlite.py cases.db"""

import sqlite3
import sys
from contextlib import closing

from events import TABLE, CaseOpened, app


def open_case(db: sqlite3.Connection, case_id: str, title: str) -> None:
    with db:  # commits both rows, or neither
        db.execute("INSERT INTO cases VALUES (?, ?)", (case_id, title))
        app.outbox.add(db, CaseOpened(case_id, title), key=case_id)


with closing(sqlite3.connect(sys.argv[1])) as connection:
    connection.execute(TABLE)
    open_case(connection, "case-1", "Broken window")
