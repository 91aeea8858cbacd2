"""What an application's code names and its configuration does not: found, shown, filled in. Pure.

Owns: the values of what code alone names (the defaults, under the profile), and how it is written
in the file. Must not know what an application is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from seaway import naming
from seaway.config.loading import profiled
from seaway.config.models import (
    ConsumerSettings,
    InboxSettings,
    NatsSettings,
    ProfileSettings,
    Settings,
    StreamSettings,
    shortest_inbox,
)


@dataclass(frozen=True, slots=True)
class Lacking:
    """Event streams by name, and durables as ``(stream, durable)``, in the order of the code."""

    streams: tuple[str, ...] = ()
    consumers: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.streams or self.consumers)

    @property
    def mapping(self) -> dict[str, Any]:
        """In the file's shape."""
        streams = [{"name": name} for name in self.streams]
        consumers = [{"stream": stream, "durable": durable} for stream, durable in self.consumers]
        return {
            **({"streams": streams} if streams else {}),
            **({"consumers": consumers} if consumers else {}),
        }

    @property
    def text(self) -> str:
        """The lines to add to the file."""
        return _as_text(self.mapping)


def lacking(settings: Settings, contexts: Iterable[str], durables: Mapping[str, str]) -> Lacking:
    """What of ``contexts`` (events that the code has) and ``durables`` (durable -> stream) is not
    in ``settings``."""
    streams = [*durables.values(), *map(naming.events_stream, contexts)]
    known = {stream.name for stream in settings.streams}
    named = {consumer.durable for consumer in settings.consumers}
    return Lacking(
        tuple(name for name in dict.fromkeys(streams) if name not in known),
        tuple((stream, name) for name, stream in durables.items() if name not in named),
    )


def completed(settings: Settings, missing: Lacking) -> Settings:
    """``settings`` with what was ``missing``, as if their file had named it."""
    profile = settings.profiles.get(settings.profile, ProfileSettings())
    streams = (
        *settings.streams,
        *(
            profiled(StreamSettings.model_validate({"name": name}), profile)
            for name in missing.streams
        ),
    )
    subjects = {stream.name: stream.subjects for stream in streams}
    consumers = (
        ConsumerSettings(stream=stream, durable=durable).taking(subjects[stream])
        for stream, durable in missing.consumers
    )
    inbox, shortest = settings.inbox, shortest_inbox(streams)
    # An event that comes again after its inbox row is gone would take effect again.
    if inbox.retention is None or (inbox.retention and shortest and inbox.retention < shortest):
        inbox = InboxSettings(retention=shortest)
    return settings.model_copy(
        update={
            "contexts": tuple(stream.context for stream in streams),
            "streams": streams,
            "consumers": (*settings.consumers, *consumers),
            "inbox": inbox,
        }
    )


def written(settings: Settings) -> str:
    """A file's text with these settings, but for who the server asks: of ``nats`` it has the URL
    without its login alone. The database's password is in it."""
    kept = settings.model_dump(
        mode="json",
        exclude_defaults=True,
        exclude={"nats", "profile", "profiles", "contexts", "source", "implied"},
    )
    url = ",".join(server.url for server in NatsSettings(url=settings.nats.url).servers)
    return _as_text({"nats": {"url": url}, "database": settings.database, **kept})


def _as_text(mapping: Mapping[str, Any]) -> str:
    """YAML that reads as ``mapping``: what looks like a variable is none."""
    text: str = yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True)
    return text.replace("${", "$${")
