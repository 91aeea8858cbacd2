"""The outbox by database alias.

from seaway.django import outbox

with transaction.atomic():
    case.save()
    outbox.add(CaseCreated(str(case.pk)), key=str(case.pk))

The settings: ``SEAWAY = {"schema": "events", "notify": True}``, all of them optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.dispatch import receiver

from seaway.errors import ConfigError
from seaway.outbox import Outbox

_KNOWN = ("limits", "max_message_bytes", "notify", "schema")


def add(
    *events: object,
    using: str = DEFAULT_DB_ALIAS,
    key: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[str]:
    """Write ``events`` in the ``atomic()`` block that is open on the database ``using``.

    ``settings.SEAWAY`` says how. Everything else is ``seaway.Outbox.add``.
    """
    return _outbox().add(
        connections[using],
        *events,
        key=key,
        correlation_id=correlation_id,
        causation_id=causation_id,
        headers=headers,
    )


@lru_cache(maxsize=1)
def _outbox() -> Outbox:
    return Outbox(**outbox_settings())


@receiver(setting_changed)
def _forget(*, setting: str, **_: Any) -> None:
    if setting == "SEAWAY":
        _outbox.cache_clear()


def outbox_settings() -> Mapping[str, Any]:
    """What ``settings.SEAWAY`` says, as ``Outbox`` takes it; ``ConfigError`` for anything else."""
    given: Mapping[str, Any] = getattr(settings, "SEAWAY", {})
    for name in given:
        if name not in _KNOWN:
            raise ConfigError(
                f"settings.SEAWAY has an unknown key {name!r}", hint=f"it takes {', '.join(_KNOWN)}"
            )
    return given
