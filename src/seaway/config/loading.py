"""Joining the sources, applying the profile, and saying what is wrong and where.

Owns: precedence, the checks that need several sections, and the wording of errors. Pure but for
``load_settings``, which reads one file (and the nats CLI's context where one is named).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from seaway import naming
from seaway.config import sources
from seaway.config.models import (
    REDRIVE_WINDOW,
    ConsumerSettings,
    InboxSettings,
    ProfileSettings,
    Section,
    Settings,
    StreamSettings,
    shortest_inbox,
)
from seaway.config.sources import Document, Location, read_document
from seaway.config.values import format_duration
from seaway.databases.engines import SHARDED, of_scheme
from seaway.errors import ConfigError, InvalidName
from seaway.words import nearest

DEFAULT_FILE = "seaway.yaml"
DEVELOPMENT_FILE = Path(".seaway", DEFAULT_FILE)
"""What ``seaway run --dev`` brought up last in this folder."""
_NOT_KEYS = ("source", "implied")
_NOTHING = object()
_SECRETS = frozenset({"password", "token", "url", "database"})
_REFUSED = {
    "backoff": "the server's backoff spoils delayed naks; Seaway computes the delays itself",
    "deliver_subject": "Seaway pulls; a push consumer cannot be used",
    "deliver_group": "Seaway pulls; a push consumer cannot be used",
    "headers_only": "handlers need the payload",
    "inactive_threshold": "a durable that vanishes forgets its position",
    "no_ack": "without acknowledgements the relay could not know what is stored",
    "num_replicas": "in seaway.yaml it is called replicas",
}


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    required: bool = True,
    otherwise: Path | None = None,
) -> Settings:
    """The settings of ``path``, else of ``SEAWAY_CONFIG``, else of ``./seaway.yaml``, else of
    ``otherwise`` where that is there.

    The environment wins over the file, so that what is committed can be overridden where it runs.
    ``flags`` has the file's shape (``{"nats": {"url": …}}``) and wins over both; ``None`` in it
    means not given. Without any file: ``ConfigError``, or bare defaults where it is not
    ``required``.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ["SEAWAY_CONFIG"]) if environ.get("SEAWAY_CONFIG") else None)
    if named is None and not Path(DEFAULT_FILE).exists():
        if otherwise is not None and otherwise.exists():
            return _settings(read_document(otherwise, environ), environ, flags or {})
        if required:
            raise ConfigError(
                f"there is no {DEFAULT_FILE} here",
                hint="`seaway init` writes one, `seaway run --dev` needs none; "
                "or name it with --config",
            )
        return _settings(Document({}), environ, flags or {})
    return _settings(read_document(named or Path(DEFAULT_FILE), environ), environ, flags or {})


def settings_from_mapping(
    mapping: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    shown: str | None = None,
) -> Settings:
    """The settings of a mapping shaped like the file; errors name the key's path, not a line.

    It is the caller's own code, and wins over the environment. ``shown``: what errors call it.
    """
    environ = os.environ if environ is None else environ
    return _settings(Document(mapping, shown=shown), environ, flags or {})


def _settings(document: Document, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    outside = sources.from_environment(environ)
    if document.name is None:
        values = _over(_over(outside, document.data), flags)
    else:
        values = _over(_over(document.data, outside), flags)
    for name in _NOT_KEYS:
        if name in values:
            raise _unknown(document, (name,))
    origin = _Origin(document, outside, flags)
    nats = values.get("nats")
    context = nats.get("context") if isinstance(nats, dict) else None
    if isinstance(nats, dict) and isinstance(context, str) and context:
        try:
            found = sources.from_nats_context(context, environ)
        except ConfigError as error:
            error.where = error.where or origin.of(("nats", "context"))
            raise
        values["nats"] = {**found, **nats}
    try:
        file = Settings.model_validate(values)
    except ValidationError as error:
        raise _first(origin, error) from None
    streams, consumers = _implied(document, file)
    implied = tuple(one.durable for one in consumers[len(file.consumers) :])
    profile = file.profiles.get(file.profile, ProfileSettings())
    under_profile = tuple(profiled(stream, profile) for stream in streams)
    problems = [
        *_stream_problems(streams),
        *_consumer_problems(streams, consumers),
        *_database_problems(file),
        *_inbox_problems(under_profile, file.inbox),
    ]
    if file.profile and file.profile not in file.profiles:
        problems.append(
            (
                ("profile",),
                f"there is no profile {file.profile!r}",
                f"profiles: {', '.join(file.profiles) or 'none'}",
            )
        )
    if problems:
        place, message, hint = min(problems, key=lambda problem: document.line(problem[0]))
        raise ConfigError(message, where=origin.of(place), hint=hint or None)
    inbox = file.inbox
    if inbox.retention is None:
        inbox = InboxSettings(retention=shortest_inbox(under_profile))
    return file.model_copy(
        update={
            "contexts": tuple(stream.context for stream in streams),
            "streams": under_profile,
            "consumers": consumers,
            "inbox": inbox,
            "source": document.name or document.shown,
            "implied": implied,
        }
    )


def profiled(stream: StreamSettings, profile: ProfileSettings) -> StreamSettings:
    """``stream`` with what ``profile`` says in its place."""
    overrides = {name: value for name, value in profile if value is not None}
    changed = stream.model_copy(update=overrides)
    if changed.max_age and changed.duplicate_window > changed.max_age:
        return changed.model_copy(update={"duplicate_window": changed.max_age})
    return changed


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping; ``None`` above leaves what is below."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[name] = _over(old, value)
        elif value is not None:
            result[name] = dict(value) if isinstance(value, Mapping) else value
    return result


def _implied(
    document: Document, file: Settings
) -> tuple[tuple[StreamSettings, ...], tuple[ConsumerSettings, ...]]:
    """The written streams and consumers and those that ``contexts`` adds, filters filled in."""
    streams, consumers = list(file.streams), []
    known = {stream.name for stream in streams}
    durables = {consumer.durable for consumer in file.consumers}
    for index, context in enumerate(file.contexts):
        try:
            name = naming.events_stream(context)
        except InvalidName as error:
            where = document.where(("contexts", index))
            raise ConfigError(str(error), where=where) from None
        if name not in known:
            known.add(name)
            streams.append(StreamSettings(name=name, subjects=(naming.events_filter(context),)))
        durable = f"{context}__default"
        if durable not in durables:
            durables.add(durable)
            consumers.append(ConsumerSettings(stream=name, durable=durable))
    subjects = {stream.name: stream.subjects for stream in streams}
    return tuple(streams), tuple(
        consumer.taking(subjects.get(consumer.stream, ()))
        for consumer in (*file.consumers, *consumers)
    )


Problem = tuple[Location, str, str]


def _stream_problems(streams: tuple[StreamSettings, ...]) -> Iterator[Problem]:
    seen: dict[str, StreamSettings] = {}
    for index, stream in enumerate(streams):
        place = ("streams", index)
        if stream.name in seen:
            yield (*place, "name"), f"the stream {stream.name} is there twice", ""
            continue
        wide = naming.events_filter(stream.context)
        for number, subject in enumerate(stream.subjects):
            here = (*place, "subjects", number)
            if not naming.covers(wide, subject):
                yield here, f"{stream.name} cannot hold {subject!r}", f"only subjects under {wide}"
            for other in stream.subjects[:number]:
                if naming.overlap(other, subject):
                    yield here, f"the subjects {other!r} and {subject!r} overlap", ""
        if stream.max_age and stream.duplicate_window > stream.max_age:
            yield (
                (*place, "duplicate_window"),
                f"{stream.name}: the duplicate window is longer than max_age",
                "nothing older than max_age can be found as a duplicate",
            )
        seen[stream.name] = stream


def _consumer_problems(
    streams: tuple[StreamSettings, ...], consumers: tuple[ConsumerSettings, ...]
) -> Iterator[Problem]:
    known = {stream.name: stream for stream in streams}
    seen: set[str] = set()
    for index, consumer in enumerate(consumers):
        place = ("consumers", index)
        stream = known.get(consumer.stream)
        if stream is None:
            yield (
                (*place, "stream"),
                f"{consumer.durable} names no known stream: {consumer.stream!r}",
                _meant(consumer.stream, known) or f"streams: {', '.join(known) or 'none'}",
            )
            continue
        if consumer.durable in seen:
            yield (*place, "durable"), f"the durable {consumer.durable} is there twice", ""
        seen.add(consumer.durable)
        if consumer.filter_subject and consumer.filter_subjects:
            yield (
                (*place, "filter_subjects"),
                "a consumer has filter_subject or filter_subjects, not both",
                "",
            )
        key = "filter_subject" if consumer.filter_subject else "filter_subjects"
        for number, pattern in enumerate(consumer.filters):
            here = (*place, key) if consumer.filter_subject else (*place, key, number)
            if not any(naming.covers(subject, pattern) for subject in stream.subjects):
                yield (
                    here,
                    f"the filter {pattern!r} is not within {stream.name}",
                    f"its subjects: {', '.join(stream.subjects)}",
                )
            for other in consumer.filters[:number]:
                if naming.overlap(other, pattern):
                    yield here, f"the filters {other!r} and {pattern!r} overlap", ""


def _database_problems(file: Settings) -> Iterator[Problem]:
    """What is asked of the database's engine that it does not have."""
    engine = of_scheme(file.database.partition(":")[0])
    if engine is None:  # Said where it is opened.
        return
    if file.database_schema is not None and not engine.schemas:
        yield ("database_schema",), engine.without_schemas, "leave database_schema out"
    if file.outbox.notify and not engine.notifies:
        yield (
            ("outbox", "notify"),
            f"{engine.one} database cannot notify its relay",
            "leave it out: a relay there sees commits within outbox.poll",
        )
    if (file.outbox.shards or 1) > 1 and not engine.shards:
        yield (
            ("outbox", "shards"),
            f"{engine.one} outbox has one shard, not several",
            f"leave it out, or use {SHARDED}",
        )


def _inbox_problems(streams: tuple[StreamSettings, ...], inbox: InboxSettings) -> Iterator[Problem]:
    """An event that comes again after its inbox row is gone takes effect again."""
    limited = [stream for stream in streams if stream.max_age]
    shortest = shortest_inbox(limited)
    if not inbox.retention or shortest is None or inbox.retention >= shortest:
        return
    longest = max(limited, key=lambda stream: stream.max_age)
    age, window = format_duration(longest.max_age), format_duration(REDRIVE_WINDOW)
    yield (
        ("inbox", "retention"),
        f"{format_duration(inbox.retention)} is shorter than the max_age of {longest.name} ({age}) "
        f"and the redrive window ({window}) together",
        f"at the least {format_duration(shortest)}, or leave it out",
    )


# ------------------------------------------------------------------------------- wording


@dataclass(frozen=True, slots=True)
class _Origin:
    """Who gave which value: flags before the environment before the file (before the environment
    the mapping, where that stands for the file)."""

    document: Document
    outside: Mapping[str, Any]
    flags: Mapping[str, Any]

    def of(self, place: Location) -> str:
        """The flag, the variable, or the place in the file that ``place`` has its value from."""
        if place and _at(self.flags, place) not in (None, _NOTHING):
            return sources.names_of(place).flag
        written = self.document.name is None and _at(self.document.data, place) is not _NOTHING
        if not written and _at(self.outside, place) is not _NOTHING:
            return sources.names_of(place).variable
        return self.document.where(place)


def _first(origin: _Origin, error: ValidationError) -> ConfigError:
    """The error that stands first in the file, in our words."""
    document = origin.document
    found = error.errors(include_url=False, include_context=False)
    details = min(
        found, key=lambda one: (document.line(_place(one)), one["type"] != "extra_forbidden")
    )
    place = _place(details)
    if details["type"] == "extra_forbidden":
        return _unknown(document, place)
    name = str(place[-1]) if place else "the configuration"
    if details["type"] == "missing":
        return ConfigError(f"{name} is missing", where=document.where(place))
    return ConfigError(f"{name}: {_reason(details)}", where=origin.of(place))


def _place(details: ErrorDetails) -> Location:
    return tuple(details["loc"])


def _reason(details: ErrorDetails) -> str:
    if details["type"] == "tuple_type":
        value = details["input"]
        return "must be a list" + (f", like [{value}]" if isinstance(value, str) and value else "")
    text = details["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    value = details["input"]
    secret = any(part in _SECRETS for part in details["loc"])
    plain = isinstance(value, str | int | float | bool) and not secret
    return f"{text}, not {value!r}" if plain and details["type"] != "value_error" else text


def _unknown(document: Document, place: Location) -> ConfigError:
    key = str(place[-1])
    known = _known_keys(place[:-1])
    hint = _REFUSED.get(key) or _meant(key, known) or f"known: {', '.join(sorted(known))}"
    return ConfigError(f"unknown key {key!r}", where=document.where(place), hint=hint)


def _meant(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, cutoff=0.5)
    return f"did you mean {near}?" if near else ""


def _known_keys(place: Location) -> list[str]:
    model: type[BaseModel] = Settings
    for part in place:
        fields = model.model_fields
        if isinstance(part, str) and part in fields:
            model = _section(fields[part].annotation) or model
    return [name for name in model.model_fields if name not in _NOT_KEYS]


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _section(arg))), None)


def _at(data: Any, place: Location) -> Any:
    """What ``data`` has at ``place``; ``_NOTHING`` where it has nothing there."""
    for part in place:
        if isinstance(data, Mapping):
            data = data.get(part, _NOTHING)
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return _NOTHING
    return data
