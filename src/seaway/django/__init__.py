"""A Django project: tables as migrations, the outbox by alias, consumers, ``manage.py seaway``.

    views, models ──> outbox.add in atomic() ──> manage.py seaway run: relay, and the ``handlers``
                                                 modules of INSTALLED_APPS, with the ORM

Owns: ``settings.SEAWAY`` and the project's one application. Must not import the ORM's models, nor
the application, before they are asked for: a view that writes pays for neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seaway.django.project import application, consumer
    from seaway.drivers.django_threads import Django

__all__ = ["Django", "application", "consumer"]

_PLACES = {
    "Django": "seaway.drivers.django_threads",
    "application": f"{__name__}.project",
    "consumer": f"{__name__}.project",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
