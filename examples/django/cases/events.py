"""The events of this app. Knows neither models nor handlers, so both can import it."""

from dataclasses import dataclass

from seaway import event


@event(context="sea", version=1)  # travels as sea.event.case_opened.v1
@dataclass
class CaseOpened:
    case_id: str
    title: str


@event(context="sea", version=1)
@dataclass
class TaskAdded:
    case_id: str
    what: str
