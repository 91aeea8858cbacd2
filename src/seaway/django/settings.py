"""The settings: ``SEAWAY = {"schema": "events", "notify": True}``, all of them optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from seaway.errors import ConfigError

_KNOWN = ("limits", "max_message_bytes", "notify", "schema")


def outbox_settings() -> Mapping[str, Any]:
    """What ``settings.SEAWAY`` says, as ``Outbox`` takes it; ``ConfigError`` for anything else."""
    given: Mapping[str, Any] = getattr(settings, "SEAWAY", {})
    for name in given:
        if name not in _KNOWN:
            raise ConfigError(
                f"settings.SEAWAY has an unknown key {name!r}", hint=f"it takes {', '.join(_KNOWN)}"
            )
    return given
