"""Which rights on the server each role needs, for the streams and durables of one file. Pure.

Owns: the lists. Guarantees: with its list a role does its whole work, and without any entry of it
some of that is denied (``tests/integration/test_permissions.py`` tries each); nobody but
``topology`` can create, change or delete a stream or a durable. Must not know a server.

A role that publishes a subject is trusted with it. Creating a reader, under its one fixed name, is
the only right here that could be turned to something else: see ADR 0013.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from seaway import naming
from seaway.config import ConsumerSettings, Settings, StreamSettings
from seaway.contracts import Granted
from seaway.errors import ConfigError
from seaway.topology.shape import desired

Role: TypeAlias = Literal[
    "writer", "relay", "consumer", "sweeper", "application", "operator", "watcher", "topology"
]
ROLES: Sequence[Role] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may publish and subscribe to; neither: it needs no connection.

    ``inbox``: what to give it as ``nats.inbox_prefix``, so that it hears no other's answers.
    """

    role: Role
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    inbox: str = ""


def rights(
    settings: Settings,
    role: str,
    *,
    service: str | None = None,
    parking: bool = False,
    audit: bool = False,
) -> Rights:
    """The rights of ``role``; of its consumers, those of ``service`` alone where it is given.

    ``parking``: its consumers are declared with ``on_failure="park"``, or their handlers put events
    off (``Retry(after=...)`` of a minute or more), which the file does not say.
    ``audit``: its watcher compares what streams hold, as ``seaway serve --audit`` does.
    ``ConfigError`` for an unknown role, and for a service without a durable.
    """
    known = next((one for one in ROLES if one == role), None)
    if known is None:
        raise ConfigError(f"there is no role {role!r}", hint=f"one of {', '.join(ROLES)}")
    needs = _Needs(settings, service, parking, audit)
    publish = tuple(dict.fromkeys(needs.of(known)))
    if not publish:
        return Rights(known)
    inbox = "_".join(("_INBOX", *((service,) if service else ()), role))
    return Rights(known, publish, (f"{inbox}.>",), inbox)


def lacking_rights(wanted: Rights, granted: Granted) -> list[str]:
    """Which subjects of ``wanted`` a user may not publish to, or not to all that they stand for.
    That he hears answers, he knows by having got one."""
    return [
        one
        for one in wanted.publish
        if not (
            granted.publish is None or any(naming.covers(wide, one) for wide in granted.publish)
        )
        or any(naming.overlap(denied, one) for denied in granted.deny_publish)
    ]


class _Needs:
    """What each role publishes, in the order of its work; some of it more than once."""

    def __init__(self, settings: Settings, service: str | None, parking: bool, audit: bool) -> None:
        self._settings = settings
        self._api = f"{settings.nats.api}."
        self._parking = parking
        self._audit = audit
        self._streams = {stream.name: stream for stream in settings.streams}
        self._consumers = [
            one
            for one in settings.consumers
            if service in (None, naming.Durable.parse(one.durable).service)
        ]
        if service is not None and not self._consumers:
            known = {naming.Durable.parse(one.durable).service for one in settings.consumers}
            raise ConfigError(
                f"no durable of the file is of a service {service!r}",
                hint=f"there are {', '.join(sorted(known)) or 'none'}",
            )

    def of(self, role: Role) -> Iterable[str]:
        work = {
            "relay": self._relay,
            "consumer": self._consumer,
            "sweeper": self._sweeper,
            "operator": self._operator,
            "watcher": self._watcher,
            "topology": self._topology,
        }
        parts = ("relay", "consumer", "sweeper") if role == "application" else (role,)
        needed = [right for part in parts if part in work for right in work[part]()]
        return [*needed, naming.OWN_RIGHTS] if needed else []

    def _read(self, stream: str, reader: str) -> Iterable[str]:
        yield f"{self._api}STREAM.INFO.{stream}"
        found = self._streams.get(stream)
        if naming.kind_of(stream) == "redrive" or (
            found is not None and found.retention == "workqueue"
        ):
            # Which admits no second reader: each message is asked for.
            yield f"{self._api}STREAM.MSG.GET.{stream}"
            return
        name = naming.reader_name(reader)
        yield f"{self._api}CONSUMER.CREATE.{stream}.{name}"
        yield f"{self._api}CONSUMER.DELETE.{stream}.{name}"

    def _acks(self, durable: str) -> Iterable[str]:
        yield f"$JS.ACK.{durable}.>"
        if self._settings.nats.jetstream_domain is not None:
            # As a server writes it that tells domains and accounts apart (js_ack_fc_v2).
            yield f"$JS.ACK.{self._settings.nats.jetstream_domain}.*.{durable}.>"

    def _relay(self) -> Iterable[str]:
        for stream in self._settings.streams:
            yield naming.events_filter(stream.context)
            yield from self._read(stream.name, naming.RELAY)
            # What lies there under the id of one event, where the stream knows it, and whether it
            # still holds what it acknowledged.
            yield f"{self._api}STREAM.MSG.GET.{stream.name}"

    def _consumer(self) -> Iterable[str]:
        for consumer in self._consumers:
            yield from self._durable(consumer)

    def _durable(self, consumer: ConsumerSettings) -> Iterable[str]:
        durable, context = consumer.durable, naming.stream_context(consumer.stream)
        queue, redrives = naming.dlq_stream(context), naming.redrive_stream(context)
        for stream in (consumer.stream, redrives):
            yield f"{self._api}CONSUMER.INFO.{stream}.{durable}"
            yield f"{self._api}CONSUMER.MSG.NEXT.{stream}.{durable}"
            # What was on its way when a process ended is given out again at once.
            yield f"{self._api}CONSUMER.RESET.{stream}.{durable}"
            # Whether the stream still holds what it was given out of it.
            yield f"{self._api}STREAM.MSG.GET.{stream}"
            yield from self._read(stream, durable)
            if consumer.exclusive:
                yield f"{self._api}CONSUMER.UNPIN.{stream}.{durable}"
            yield from self._acks(f"{stream}.{durable}")
        yield naming.dlq_filter(context)
        yield f"{self._api}STREAM.INFO.{queue}"
        yield f"{self._api}STREAM.MSG.GET.{queue}"
        if self._parking:
            yield from self._read(queue, durable)
            yield naming.redrive_filter(context, durable)
            yield naming.later_filter(context, durable)
            yield f"{self._api}STREAM.MSG.DELETE.{queue}"

    def _sweeper(self) -> Iterable[str]:
        advisories = f"{naming.ADVISORY_STREAM}.{naming.SWEEPER_DURABLE}"
        yield f"{self._api}CONSUMER.INFO.{advisories}"
        yield f"{self._api}CONSUMER.MSG.NEXT.{advisories}"
        yield from self._acks(advisories)
        yield f"{self._api}STREAM.INFO.{naming.ADVISORY_STREAM}"
        for stream in self._settings.streams:
            redrives = naming.redrive_stream(stream.context)
            yield from self._read(stream.name, naming.SWEEPER)
            yield f"{self._api}STREAM.MSG.GET.{stream.name}"
            yield from self._read(redrives, naming.SWEEPER)
            yield f"{self._api}STREAM.MSG.DELETE.{redrives}"
            queue = naming.dlq_stream(stream.context)
            yield from self._read(queue, naming.SWEEPER)
            yield f"{self._api}STREAM.MSG.GET.{queue}"
            # Of letters that came back with a queue which was lost, those that are settled.
            yield f"{self._api}STREAM.MSG.DELETE.{queue}"
            yield naming.dlq_filter(stream.context)
        for consumer in self._consumers:
            redrives = naming.redrive_stream(naming.stream_context(consumer.stream))
            for name in (consumer.stream, redrives):
                yield f"{self._api}CONSUMER.INFO.{name}.{consumer.durable}"

    def _operator(self) -> Iterable[str]:
        for stream in self._settings.streams:
            queue = naming.dlq_stream(stream.context)
            yield from self._read(queue, naming.OPERATOR)
            yield f"{self._api}STREAM.MSG.GET.{queue}"
            yield f"{self._api}STREAM.MSG.DELETE.{queue}"
            # What was discarded is brought back, and what has neither effect nor letter gets one.
            yield naming.dlq_filter(stream.context)
            # A letter by reference; a replay; a redrive to all.
            yield f"{self._api}STREAM.MSG.GET.{stream.name}"
            yield from self._read(stream.name, naming.OPERATOR)
            yield naming.events_filter(stream.context)
            # What became of events, and whether all are there.
            yield from self._compare(stream, naming.OPERATOR)
            # What waits for its time: listed, and cancelled, which makes it a letter.
            redrives = naming.redrive_stream(stream.context)
            yield from self._read(redrives, naming.OPERATOR)
            yield f"{self._api}STREAM.MSG.DELETE.{redrives}"
            yield naming.dlq_filter(stream.context)
        for consumer in self._consumers:
            context = naming.stream_context(consumer.stream)
            redrives = naming.redrive_stream(context)
            yield f"{self._api}CONSUMER.INFO.{redrives}.{consumer.durable}"
            yield naming.redrive_filter(context, consumer.durable)
            yield f"{self._api}CONSUMER.RESET.{consumer.stream}.{consumer.durable}"
            yield f"{self._api}CONSUMER.PAUSE.{consumer.stream}.{consumer.durable}"
            yield f"{self._api}CONSUMER.PAUSE.{redrives}.{consumer.durable}"
            yield naming.later_filter(context, consumer.durable)

    def _compare(self, stream: StreamSettings, reader: str) -> Iterable[str]:
        yield f"{self._api}CONSUMER.LIST.{stream.name}"
        yield f"{self._api}CONSUMER.INFO.{stream.name}.*"
        yield f"{self._api}STREAM.MSG.GET.{stream.name}"
        yield from self._read(naming.redrive_stream(stream.context), reader)

    def _watcher(self) -> Iterable[str]:
        for stream in desired(self._settings).streams:
            yield f"{self._api}STREAM.INFO.{stream}"
            yield f"{self._api}CONSUMER.LIST.{stream}"
            yield f"{self._api}CONSUMER.INFO.{stream}.*"
            if naming.kind_of(stream) != "redrive":
                yield from self._read(stream, naming.WATCHER)
        for found in self._settings.streams:
            yield f"{self._api}STREAM.MSG.GET.{naming.dlq_stream(found.context)}"
            if self._audit:
                yield from self._compare(found, naming.WATCHER)

    def _topology(self) -> Iterable[str]:
        wanted = desired(self._settings)
        yield f"{self._api}STREAM.LIST"
        for stream in wanted.streams:
            for verb in ("CREATE", "UPDATE", "DELETE", "INFO"):
                yield f"{self._api}STREAM.{verb}.{stream}"
            yield f"{self._api}CONSUMER.LIST.{stream}"
        for stream, durable in wanted.consumers:
            for verb in ("CREATE", "DELETE", "INFO"):
                yield f"{self._api}CONSUMER.{verb}.{stream}.{durable}"
