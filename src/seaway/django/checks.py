"""What ``manage.py check`` says of ``settings.SEAWAY``: no view is the first to find out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, register

from seaway.django.configuration import configured, given
from seaway.errors import ConfigError


@register("seaway")
def settings_are_right(app_configs: Any, **_: Any) -> Sequence[CheckMessage]:
    """``seaway.E001`` where they are not; a project that leaves SEAWAY out has nothing wrong."""
    try:
        if given():
            configured()
    except ConfigError as error:
        return [Error(str(error), id="seaway.E001")]
    return []
