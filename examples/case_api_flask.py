"""Flask: requests write cases. Another process publishes their events and handles them.

flask --app case_api_flask run
seaway run case_service:app
"""

import sqlite3

from case_service import TABLES, open_case
from flask import Flask, g, request

api = Flask(__name__)


def database() -> sqlite3.Connection:
    if "db" not in g:
        g.db = sqlite3.connect("cases.db")
        g.db.executescript(TABLES)
    return g.db


@api.teardown_appcontext
def close(_: BaseException | None) -> None:
    if "db" in g:
        g.db.close()


@api.post("/cases")
def create_case() -> tuple[dict[str, str], int]:
    case_id = open_case(database(), request.json["title"])  # case and event, committed together
    return {"id": case_id}, 201


@api.get("/cases/<case_id>/tasks")
def tasks(case_id: str) -> list[str]:
    query = "SELECT what FROM tasks WHERE case_id = ?"
    return [what for (what,) in database().execute(query, (case_id,))]
