"""The event that the examples write, and the application whose outbox they write it to."""

from dataclasses import dataclass

from seaway import Seaway, event

TABLE = "CREATE TABLE IF NOT EXISTS cases (id text PRIMARY KEY, title text NOT NULL)"


@event(context="sea", version=1)  # travels as sea.event.case_opened.v1
@dataclass
class CaseOpened:
    case_id: str
    title: str


app = Seaway.from_config()  # seaway.yaml; connects to nothing yet
