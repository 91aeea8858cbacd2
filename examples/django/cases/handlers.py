"""Handlers: `manage.py seaway run` finds them in each installed app that has such a module."""

from cases.events import CaseOpened, TaskAdded
from cases.models import Task
from seaway import Delivery, Poison
from seaway.django import consumer

case_mgmt = consumer("case_mgmt", from_context="sea")  # the durable case_mgmt__from_sea


@case_mgmt.handler(CaseOpened)
def add_task(event: CaseOpened, delivery: Delivery) -> None:
    if not event.title:
        raise Poison("a case needs a title")
    task = Task.objects.create(case_id=event.case_id, what=f"look into: {event.title}")
    delivery.add(TaskAdded(event.case_id, task.what), key=event.case_id)
