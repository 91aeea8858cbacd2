"""The events that every example here handles and adds."""

from dataclasses import dataclass

from seaway import event


@event(context="sea", version=1)
@dataclass
class CaseOpened:
    case_id: str
    title: str


@event(context="sea", version=1)
@dataclass
class TaskOpened:
    case_id: str
