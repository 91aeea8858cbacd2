"""A Django project's one application: made of ``settings.SEAWAY``, with the consumers that the
``handlers`` modules of its installed apps declare.

    # shop/handlers.py
    from seaway.django import consumer

    case_mgmt = consumer("case_mgmt", from_context="sea")


    @case_mgmt.handler(CaseOpened)
    def add_task(event: CaseOpened, delivery: Delivery) -> None:
        Task.objects.create(case_id=event.case_id)

``handlers``, not ``events``: models write events and handlers write models, so both in one module
would import each other in a circle.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Unpack

from django.db.transaction import on_commit
from django.utils.module_loading import autodiscover_modules

from seaway.app import Seaway
from seaway.consumer import Consumer, ConsumerOptions
from seaway.django.configuration import SHOWN, alias, mapping
from seaway.drivers.django_threads import Django

PLACE = f"{__name__}:discovered"
"""Where ``seaway run`` finds the application with all its consumers."""


@cache
def application() -> Seaway:
    """The project's application, made once a process: what ``app`` is elsewhere.

    Its consumers are those whose modules have been imported. ``ConfigError`` where
    ``settings.SEAWAY`` is wrong.
    """
    return Seaway.from_config(mapping(), shown=SHOWN)


def consumer(
    service: str,
    *,
    from_context: str | None = None,
    purpose: str | None = None,
    **options: Unpack[ConsumerOptions],
) -> Consumer:
    """Declare a consumer in the ``handlers`` module of an installed app; ``Seaway.consumer``, but
    that its handlers work on Django's own connection, unless ``tx`` says otherwise."""
    options.setdefault("tx", Django(alias()))
    return application().consumer(service, from_context=from_context, purpose=purpose, **options)


def nudge_on_commit(using: str) -> None:
    """Have this process' relay, if it has one, told once the transaction on ``using`` commits."""
    if application.cache_info().currsize and application().connected and using == alias():
        on_commit(application().nudge, using=using, robust=True)


def __getattr__(name: str) -> Any:
    if name == "discovered":
        autodiscover_modules("handlers")
        return application()
    raise AttributeError(f"module {__name__} has no attribute {name}")
