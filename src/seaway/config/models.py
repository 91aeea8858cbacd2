"""The shapes of the settings: what may stand in ``seaway.yaml``, with every default.

Owns: fields, types, defaults and the checks that need one section only. Knows neither files nor
the environment. Guarantees: instances are frozen, hold no unknown key, and print no secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from seaway import naming
from seaway.config.values import (
    UNLIMITED,
    Rate,
    ServerUrl,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    redact_url,
    server_urls,
)
from seaway.errors import ConfigError, InvalidName
from seaway.tables import check_schema
from seaway.words import nearest

Duration: TypeAlias = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
]
RateField: TypeAlias = Annotated[
    Rate, BeforeValidator(Rate.parse), PlainSerializer(str, return_type=str)
]


def _limit(value: int) -> int:
    if value < 1 and value != UNLIMITED:
        raise ValueError("a limit is 1 or more, or -1 for unlimited")
    return value


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0")
    return value


def _checked_by(check: Callable[[str], object]) -> AfterValidator:
    """``check`` for a field: what it refuses with a ``ConfigError``, a field does with a
    ``ValueError``."""

    def checked(value: str) -> str:
        try:
            return str(check(value))
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(checked)


def _token(value: str) -> str:
    if not re.fullmatch(r"[^\s.*>]+", value):
        raise ValueError("is one word of a subject: no dots, blanks or wildcards")
    return value


def _prefix(value: str) -> str:
    prefix = value.removesuffix(".")
    for word in prefix.split("."):
        if not re.fullmatch(r"[^\s*>]+", word):
            raise ValueError("is the beginning of a subject: no blanks or wildcards")
    return prefix


Limit: TypeAlias = Annotated[StrictInt, AfterValidator(_limit)]
SizeLimit: TypeAlias = Annotated[Size, AfterValidator(_limit)]
Period: TypeAlias = Annotated[Duration, AfterValidator(_positive)]
Count: TypeAlias = Annotated[StrictInt, Field(ge=1)]
Replicas: TypeAlias = Annotated[StrictInt, Field(ge=1, le=5)]
Token: TypeAlias = Annotated[str, AfterValidator(_token)]
Prefix: TypeAlias = Annotated[str, AfterValidator(_prefix)]
Filter: TypeAlias = Annotated[str, _checked_by(naming.check_filter)]
DurableName: TypeAlias = Annotated[str, _checked_by(naming.Durable.parse)]
Schema: TypeAlias = Annotated[str, _checked_by(check_schema)]


class Section(BaseModel):
    """A mapping of the file: frozen, no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


RESTORE_FOR = timedelta(days=7)
"""How long a discarded letter can be brought back, unless somebody says otherwise."""

REDRIVE_WINDOW = timedelta(days=7)
"""How long after its stream has forgotten it an event that was handled may come again by a redrive.

Dead letter and redrive streams keep for ever what nobody takes out, so this is no limit of theirs
but Seaway's promise: as long as advisories last, from which letters are still written."""


OWN_API = "$JS.API"
"""What JetStream's API begins with in the account and the domain of the connection."""


class NatsSettings(Section):
    """How to reach the server. ``url`` may list several, by comma."""

    url: str = "nats://127.0.0.1:4222"
    creds: Path | None = None
    nkey: Path | None = None
    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_first: bool = False
    jetstream_domain: Token | None = None
    jetstream_api_prefix: Prefix | None = None
    context: str | None = None
    connect_timeout: Period = timedelta(seconds=2)
    request_timeout: Period = timedelta(seconds=5)
    inbox_prefix: str = "_INBOX"

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        server_urls(value)
        parts = (part.strip() for part in value.split(","))
        return ",".join(part if "://" in part else f"nats://{part}" for part in parts)

    @property
    def servers(self) -> tuple[ServerUrl, ...]:
        """Each server of ``url``."""
        return server_urls(self.url)

    @field_validator("jetstream_api_prefix")
    @classmethod
    def _one_api(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("jetstream_domain") is not None:
            raise ValueError("there is a jetstream_domain: one of them, not both")
        return value

    @property
    def api(self) -> str:
        """What each subject of JetStream's API begins with, without the last dot."""
        if self.jetstream_domain is not None:
            return f"$JS.{self.jetstream_domain}.API"
        return self.jetstream_api_prefix or OWN_API

    @property
    def redacted_url(self) -> str:
        """``url`` for people to see."""
        return redact_url(self.url)

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, redact_url(value) if name == "url" else value


class StreamSettings(Section):
    """An event stream. The defaults are those of a context that names only itself."""

    name: str
    subjects: Annotated[tuple[Filter, ...], Field(min_length=1)]
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    max_age: Duration = timedelta(days=7)
    max_bytes: SizeLimit = 10 << 30
    storage: Literal["file", "memory"] = "file"
    replicas: Replicas = 3
    duplicate_window: Period = timedelta(minutes=2)
    description: str | None = None
    discard: Literal["old", "new"] | None = None
    discard_new_per_subject: StrictBool | None = None
    max_msgs: Limit | None = None
    max_msgs_per_subject: Limit | None = None
    max_msg_size: SizeLimit | None = None
    max_consumers: Limit | None = None
    compression: Literal["none", "s2"] | None = None
    allow_direct: StrictBool = True
    deny_delete: StrictBool | None = None
    deny_purge: StrictBool | None = None
    allow_rollup_hdrs: StrictBool | None = None

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, data: Any) -> Any:
        """Subjects follow the name, and the duplicate window is never longer than ``max_age``."""
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        try:
            context = naming.stream_context(values["name"])
            values.setdefault("subjects", (naming.events_filter(context),))
            age = parse_duration(values.get("max_age", "0"))
        except (KeyError, ValueError, TypeError, AttributeError):
            return values  # the fields' own checks say what is wrong
        default = cls.model_fields["duplicate_window"].default
        if age and "duplicate_window" not in values:
            values["duplicate_window"] = min(age, default)
        return values

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            context = naming.stream_context(value)
        except InvalidName:
            context = ""
        if not context or naming.events_stream(context) != value:
            raise ValueError(f"{value!r} is not an event stream's name, like SEA_EVENTS")
        return value

    @property
    def context(self) -> str:
        """``SEA_EVENTS`` gives ``sea``."""
        return naming.stream_context(self.name)


class ConsumerSettings(Section):
    """A durable pull consumer. Without a filter it takes all of its stream's subjects.

    ``exclusive``: of all its processes one at a time is given messages (nats-server >= 2.11).
    """

    stream: str
    durable: DurableName
    filter_subject: Filter | None = None
    filter_subjects: tuple[Filter, ...] = ()
    ack_policy: Literal["explicit"] = "explicit"
    ack_wait: Period = timedelta(seconds=120)
    max_deliver: Count = 20
    max_ack_pending: Count = 50
    exclusive: StrictBool = False
    deliver_policy: Literal["all", "new", "last", "last_per_subject"] = "all"
    description: str | None = None
    max_waiting: Count | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        """What it takes, however it was written."""
        return (self.filter_subject,) if self.filter_subject else self.filter_subjects

    def taking(self, subjects: tuple[str, ...]) -> ConsumerSettings:
        """The same with ``subjects`` as its filters, where it has none."""
        if self.filters or not subjects:
            return self
        if len(subjects) == 1:
            return self.model_copy(update={"filter_subject": subjects[0]})
        return self.model_copy(update={"filter_subjects": subjects})


class ProfileSettings(Section):
    """What a profile says instead of every stream's own value."""

    replicas: Replicas | None = None
    storage: Literal["file", "memory"] | None = None
    max_age: Duration | None = None
    max_bytes: SizeLimit | None = None


class AlertSettings(Section):
    """Thresholds; above them is an alert. ``metadata``: they are also written into the metadata of
    durables, where NATS' own tools look for them."""

    stream_messages_pending: Annotated[StrictInt, Field(ge=0)] = 1000
    consumer_ack_pending: Annotated[StrictInt, Field(ge=0)] = 100
    consumer_redelivery_count: RateField = Rate(50, timedelta(minutes=1))
    metadata: StrictBool = True


class OutboxSettings(Section):
    """How the outbox is written, and how its relay works. ``retention`` 0 keeps no sent event;
    ``shards`` ``None`` leaves the database's number; ``heal``: what a stream acknowledged and has
    lost is published again."""

    retention: Duration = timedelta(days=7)
    max_message_bytes: Annotated[Size, Field(ge=1)] = 1 << 20
    max_attempts: Count = 10
    batch: Annotated[StrictInt, Field(ge=1, le=1000)] = 1000
    poll: Period = timedelta(milliseconds=100)
    notify: StrictBool = False
    shards: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    on_parked: Literal["wait", "pass"] = "wait"
    stream_grace: Period = timedelta(minutes=10)
    heal: StrictBool = True


class InboxSettings(Section):
    """How long a consumer knows what it has handled. ``retention`` 0 is for ever, as is ``None``:
    loading replaces that by ``shortest_inbox``, where there is one."""

    retention: Duration | None = None


class DeadLetterSettings(Section):
    """``restore_for``: how long a discarded letter can be brought back; 0: not at all."""

    restore_for: Duration = RESTORE_FOR


def shortest_inbox(streams: Iterable[StreamSettings]) -> timedelta | None:
    """How long an event of one of ``streams`` can come again, by its stream or a redrive; ``None``:
    for ever, or there is no stream."""
    ages = [stream.max_age for stream in streams]
    return max(ages) + REDRIVE_WINDOW if ages and all(ages) else None


class Settings(Section):
    """Everything, with the profile applied and all that ``contexts`` implies written out.

    ``contexts`` is that of each event stream, ``source`` the file's name, if there was one,
    ``implied`` the durables that only ``contexts`` names.
    """

    nats: NatsSettings = NatsSettings()
    database: str = Field(default="sqlite:///seaway.db", repr=False)
    database_schema: Schema | None = None
    profile: str = ""
    profiles: dict[str, ProfileSettings] = {}
    contexts: tuple[str, ...] = ()
    streams: tuple[StreamSettings, ...] = ()
    consumers: tuple[ConsumerSettings, ...] = ()
    alerts: AlertSettings = AlertSettings()
    outbox: OutboxSettings = OutboxSettings()
    inbox: InboxSettings = InboxSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    source: str | None = None
    implied: tuple[str, ...] = ()

    @field_validator("database")
    @classmethod
    def _database(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("is not a database URL, like sqlite:///seaway.db")
        return value

    def way_to(self, stream: str) -> str:
        """What to do where ``stream``, to which an event belongs, is not on the server."""
        if not self.streams or any(one.name == stream for one in self.streams):
            return f"{stream} does not exist: create it with `seaway topology apply`"
        try:
            context = naming.stream_context(stream)
        except InvalidName:
            context = stream
        near = nearest(context, self.contexts, cutoff=0.5)
        meant = f" (did you mean {near}?)" if near else ""
        return (
            f"{stream} is not in {self.name}{meant}: add it and run "
            "`seaway topology apply`, or `seaway outbox discard ID --why ...`"
        )

    def way_without(self, stream: str, durable: str) -> str:
        """What to do about ``durable`` of ``stream``, which is on the server and nobody uses."""
        remove = f"nats consumer rm {stream} {durable}"
        if durable in self.implied:
            context = naming.stream_context(stream)
            return (
                f"it comes from contexts: in {self.name}: use it "
                f'(app.consumer("{context}", purpose="default")), or list {stream} under streams: '
                f"in place of {context} under contexts:, then {remove}"
            )
        if any((one.stream, one.durable) == (stream, durable) for one in self.consumers):
            return f"start its consumer, or take it out of {self.name}, then {remove}"
        return f"it is not in {self.name}: add it and start its consumer, or {remove}"

    @property
    def name(self) -> str:
        """What its reader knows it by: the file's name, where it is of one."""
        return self.source or "the configuration"

    @property
    def for_writers(self) -> dict[str, Any]:
        """What ``Outbox`` takes of these."""
        return {
            "max_message_bytes": self.outbox.max_message_bytes,
            "limits": {
                stream.name: stream.max_msg_size
                for stream in self.streams
                if stream.max_msg_size is not None and stream.max_msg_size > 0
            },
            "schema": self.database_schema,
            "notify": self.outbox.notify,
        }

    @property
    def redacted_database(self) -> str:
        """``database`` for people to see."""
        return redact_url(self.database)
