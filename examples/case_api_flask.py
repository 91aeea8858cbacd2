"""Flask: requests write cases. Another process publishes their events and handles them.

python case_orm.py
flask --app case_api_flask run
seaway run case_api_flask:app
"""

from collections.abc import Callable

from case_orm import Sessions, Task, app, open_case
from flask import Flask, request
from sqlalchemy import select

from seaway import Delivery

api = Flask(__name__)


@app.middleware
def in_context(delivery: Delivery, call_next: Callable[[], None]) -> None:
    with api.app_context():  # a handler may use current_app, and what hangs on it
        call_next()


@api.post("/cases")
def create_case() -> tuple[dict[str, str], int]:
    with Sessions.begin() as session:  # commits the case and its event, or neither
        case_id = open_case(session, request.json["title"])
    return {"id": case_id}, 201


@api.get("/cases/<case_id>/tasks")
def tasks(case_id: str) -> list[str]:
    with Sessions() as session:
        return list(session.scalars(select(Task.what).where(Task.case_id == case_id)))
