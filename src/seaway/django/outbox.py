"""The outbox by database alias.

from seaway.django import outbox

with transaction.atomic():
    case.save()
    outbox.add(CaseCreated(str(case.pk)), key=str(case.pk))

``settings.SEAWAY`` says where the tables are, and what is too large.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.dispatch import receiver

from seaway.django.configuration import configured, given
from seaway.outbox import Outbox


def add(
    *events: object,
    using: str = DEFAULT_DB_ALIAS,
    key: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[str]:
    """Write ``events`` in the ``atomic()`` block that is open on the database ``using``.

    ``settings.SEAWAY`` says how. Everything else is ``seaway.Outbox.add``. A relay that runs in
    this process is told on commit; others find the event within ``outbox.poll``.
    """
    added = the_outbox().add(
        connections[using],
        *events,
        key=key,
        correlation_id=correlation_id,
        causation_id=causation_id,
        headers=headers,
    )
    if (project := sys.modules.get("seaway.django.project")) is not None:
        project.nudge_on_commit(using)
    return added


@lru_cache(maxsize=1)
def the_outbox() -> Outbox:
    """As ``settings.SEAWAY`` wants it."""
    return Outbox(**configured().for_writers) if given() else Outbox()


@receiver(setting_changed)
def _forget(*, setting: str, **_: Any) -> None:
    if setting == "SEAWAY":
        the_outbox.cache_clear()
