"""The ports: what Seaway needs from a database and from a broker, and the values they exchange.

Owns: the Protocols that every engine implements and the data that crosses them. The broker's port
is JetStream's: its streams, durables, pulls, acknowledgement floors and configuration, as they are.
It keeps the client and its JSON out of the rest of the code, and lets tests do without a server; no
other broker is meant to fit. The database's port knows no engine. Guarantees: an implementation
passes the one conformance suite of its port (``seaway.testing.conformance``), so callers never ask
which engine they have; where engines differ, ``Capabilities`` says so.

All methods are safe to cancel: a cancelled call has either happened or not, never half.
"""

from __future__ import annotations

from seaway.contracts.audit import Committed
from seaway.contracts.broker import (
    PAUSES_SINCE,
    REWINDS_SINCE,
    Broker,
    BrokerAdmin,
    Granted,
    Held,
    PublishOutcome,
    Refused,
    ServerInfo,
    Stored,
    Subscription,
    Unconfirmed,
    WhyRefused,
)
from seaway.contracts.history import InboxRow, Kept, Unhandled
from seaway.contracts.inbox import (
    LAST_ID,
    DeadLetterReason,
    DeadLetterSink,
    InboxRows,
    InboxStore,
    InboxTransaction,
    OutboxWriter,
    ParkingStore,
    ThreadInbox,
    ThreadTransaction,
)
from seaway.contracts.log import KnownPlace, LogEntry, LogStore, Notes, PlaceStore, Unseen
from seaway.contracts.mending import (
    DiscardedLetter,
    DiscardStore,
    Run,
    RunItem,
    RunState,
)
from seaway.contracts.messages import Incoming, Message, StoredMessage
from seaway.contracts.outbox import (
    GIVEN_UP,
    LOST,
    Backlog,
    Failed,
    Lease,
    Loss,
    OutboxEntry,
    Sent,
    SentPlace,
)
from seaway.contracts.store import (
    SILENT,
    Capabilities,
    Notice,
    Phase,
    ProcessStore,
    RelayStore,
    SchemaChange,
    Store,
)
from seaway.contracts.streams import JSON, ConsumerInfo, StreamInfo
from seaway.contracts.vitals import Acknowledged, OpenTransaction, Vitals

__all__ = [
    "LAST_ID",
    "InboxRows",
    "GIVEN_UP",
    "JSON",
    "LOST",
    "PAUSES_SINCE",
    "REWINDS_SINCE",
    "SILENT",
    "Acknowledged",
    "Backlog",
    "Broker",
    "BrokerAdmin",
    "Capabilities",
    "Committed",
    "ConsumerInfo",
    "DeadLetterReason",
    "DeadLetterSink",
    "DiscardStore",
    "DiscardedLetter",
    "Failed",
    "Granted",
    "Held",
    "InboxRow",
    "InboxStore",
    "InboxTransaction",
    "Incoming",
    "Kept",
    "KnownPlace",
    "Lease",
    "LogEntry",
    "LogStore",
    "Loss",
    "Message",
    "Notes",
    "Notice",
    "OpenTransaction",
    "OutboxEntry",
    "OutboxWriter",
    "ParkingStore",
    "Phase",
    "PlaceStore",
    "ProcessStore",
    "PublishOutcome",
    "Refused",
    "RelayStore",
    "Run",
    "RunItem",
    "RunState",
    "SchemaChange",
    "Sent",
    "SentPlace",
    "ServerInfo",
    "Store",
    "Stored",
    "StoredMessage",
    "StreamInfo",
    "Subscription",
    "ThreadInbox",
    "ThreadTransaction",
    "Unconfirmed",
    "Unseen",
    "Unhandled",
    "Vitals",
    "WhyRefused",
]
