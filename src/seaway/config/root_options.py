"""The settings of an application that is made in code, under the options of whoever imports it.

Owns: which of the two wins. Guarantees: whatever an application derives from its settings while it
is imported (outbox, consumers, engines) is derived from the settings that it is run with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seaway.config.loading import load_settings, settings_from_mapping
from seaway.config.models import Settings


@dataclass(frozen=True, slots=True)
class _Options:
    config: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True


_options: ContextVar[_Options] = ContextVar("root options of the command line")


@contextmanager
def root_options(
    config: Path | None, flags: Mapping[str, Any], *, required: bool = True
) -> Iterator[None]:
    """Applications that are made inside are made with these. Without ``required`` they need no
    file where they name none."""
    token = _options.set(_Options(config, flags, required))
    try:
        yield
    finally:
        _options.reset(token)


def application_settings(
    config: Path | str | Mapping[str, Any] | None, *, required: bool, shown: str | None = None
) -> tuple[Settings, bool]:
    """The settings of an application that gives ``config`` (a file, a mapping, ``None``: where
    ``seaway`` itself looks), and whether root options are in them.

    ``--config`` is read in place of what is given, ``--server`` and the like are laid over it.
    ``shown``: what errors call a mapping.
    """
    options = _options.get(_Options())
    flags = options.flags
    heeded = bool(options.config or flags)
    if options.config is None and isinstance(config, Mapping):
        return settings_from_mapping(config, flags=flags, shown=shown), heeded
    named = options.config or (None if isinstance(config, Mapping) else config)
    path = None if named is None else Path(named)
    return load_settings(path, flags=flags, required=required and options.required), heeded
