"""SEAWAY_CONFIG=../seaway.yaml python with_psycopg.py postgresql://user@host/database"""

import sys

import psycopg
from events import TABLE, CaseOpened, app


def open_case(db: psycopg.Connection, case_id: str, title: str) -> None:
    with db.transaction():
        db.execute("INSERT INTO cases VALUES (%s, %s)", (case_id, title))
        app.outbox.add(db, CaseOpened(case_id, title), key=case_id)


with psycopg.connect(sys.argv[1]) as connection:
    connection.execute(TABLE)
    open_case(connection, "case-1", "Broken window")
