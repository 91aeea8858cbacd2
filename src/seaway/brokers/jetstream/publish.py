"""Publishing in order: atomic batches where the stream allows, else one in flight for each key.

Owns: how messages become acknowledged ones, and what each refusal means. Guarantees: one outcome a
message; of one ordering key, nothing is stored behind a message that was not.

    all messages ──> batches of <= 1,000 ──(commit acknowledged)──────────────> Stored
                        │ refused for a message (known id, size), or not allowed
                        └──> singles, one in flight a key ──> Stored | Refused | Unconfirmed, Held
                        │ refused for the stream (full, no leader)  ──> Refused(heals) for the rest
                        └ no answer ─────────────────────────────────> Unconfirmed, Held

Source: nats-server 2.12 and newer, ADR-50 of NATS; err_codes from its ``errors.json``.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from seaway.brokers.jetstream.connection import Connection, Frame
from seaway.brokers.jetstream.replies import Replies
from seaway.contracts import (
    Held,
    Message,
    PublishOutcome,
    Refused,
    Stored,
    Unconfirmed,
)
from seaway.errors import BrokerUnavailable, ConfigError
from seaway.headers import wire_bytes

BATCH_MESSAGES = 1000
BATCH_BYTES = 8 * 1024 * 1024
WINDOW = 500

TOO_LARGE = 10054
ATOMIC_DISABLED = 10174
ATOMIC_UNSUPPORTED_HEADER = 10177
ATOMIC_KNOWN_ID = 10201
_HEALING = frozenset({10059, 10076, 10039, 10167})
"""Stream not found, JetStream not enabled (server, account), too many requests: the way out is
elsewhere, and the message is fine."""

_NO_ATOMIC_BEFORE = (2, 12)


def size_of(message: Message) -> int:
    """Bytes of headers and payload as the server counts them against ``max_payload``."""
    return wire_bytes(message.headers, message.payload)


def batches(messages: Sequence[Message]) -> Iterator[Sequence[int]]:
    """Runs of indices that fit one atomic batch, in order."""
    run: list[int] = []
    size = 0
    for index, message in enumerate(messages):
        length = size_of(message)
        if run and (len(run) == BATCH_MESSAGES or size + length > BATCH_BYTES):
            yield run
            run, size = [], 0
        run.append(index)
        size += length
    if run:
        yield run


def classify(answer: Frame | None) -> PublishOutcome:
    """What a publish acknowledgement, or its absence, says of one message."""
    if answer is None:
        return Unconfirmed("no acknowledgement in time")
    if answer.status == "503":
        return Refused("no stream takes this subject", code=503, err_code=0, heals=True)
    try:
        content = json.loads(answer.data)
        error = content.get("error")
        if error is None:
            return Stored(int(content["seq"]), bool(content.get("duplicate", False)))
        code, err_code = int(error.get("code", 0)), int(error.get("err_code", 0))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Unconfirmed("the acknowledgement cannot be read")
    return Refused(
        str(error.get("description", "refused")),
        code=code,
        err_code=err_code,
        heals=code >= 500 or err_code in _HEALING,
    )


class Publisher:
    """Publishes over one connection. ``open`` before use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._replies = Replies(connection)
        self._not_atomic: dict[str, int] = {}

    async def open(self) -> None:
        """Subscribe for acknowledgements. Idempotent."""
        await self._replies.open()

    async def close(self) -> None:
        """Give up what still waits. Idempotent."""
        await self._replies.close()

    async def publish(
        self, stream: str, messages: Sequence[Message], *, timeout: timedelta
    ) -> list[PublishOutcome]:
        """See ``contracts.Broker.publish``."""
        outcomes: list[PublishOutcome] = [Held()] * len(messages)
        blocked: set[str] = set()
        limit = self._connection.server_info().max_payload_bytes
        sendable: list[int] = []
        for index, message in enumerate(messages):
            if (size := size_of(message)) > limit:
                # The server would close the connection over it.
                outcomes[index] = Refused(
                    f"{size} bytes are more than the server's max_payload of {limit}",
                    code=400,
                    err_code=TOO_LARGE,
                    heals=False,
                )
                blocked.add(message.key)
            elif message.key not in blocked:
                sendable.append(index)
        runs = [
            [sendable[place] for place in run]
            for run in batches([messages[index] for index in sendable])
        ]
        for number, run in enumerate(runs):
            free = [index for index in run if messages[index].key not in blocked]
            if not free:
                continue
            chosen = [messages[index] for index in free]
            results = await self._run(stream, chosen, timeout)
            for index, outcome in zip(free, results, strict=True):
                outcomes[index] = outcome
                if not isinstance(outcome, Stored):
                    blocked.add(messages[index].key)
            ill = next((result for result in results if _concerns_the_stream(result)), None)
            if ill is not None:
                for later in (index for rest in runs[number + 1 :] for index in rest):
                    outcomes[later] = ill if isinstance(ill, Refused) else Held()
                break
        return outcomes

    async def _run(
        self, stream: str, messages: Sequence[Message], timeout: timedelta
    ) -> Sequence[PublishOutcome]:
        if len(messages) > 1 and self._may_be_atomic(stream):
            outcomes = await self._atomic(stream, messages, timeout)
            if outcomes is not None:
                return outcomes
        return await self._singles(messages, timeout)

    # ------------------------------------------------------------------ atomic batches

    def _may_be_atomic(self, stream: str) -> bool:
        if self._not_atomic.get(stream) == self._connection.epoch:
            return False
        version = self._connection.server_info().version.split("-")[0].split(".")
        return tuple(int(part) for part in version[:2] if part.isdigit()) >= _NO_ATOMIC_BEFORE

    async def _atomic(
        self, stream: str, messages: Sequence[Message], timeout: timedelta
    ) -> Sequence[PublishOutcome] | None:
        """Outcomes; ``None``: nothing was stored, and singles will tell which message is why."""
        reply, _ = self._replies.expect()
        batch_id, last = uuid.uuid4().hex, len(messages)
        try:
            for place, message in enumerate(messages, start=1):
                headers = {
                    **message.headers,
                    "Nats-Batch-Id": batch_id,
                    "Nats-Batch-Sequence": str(place),
                }
                if place < last:
                    await self._connection.publish(
                        message.subject, message.payload, headers=headers
                    )
                else:
                    headers["Nats-Batch-Commit"] = "1"
                    await self._connection.publish(
                        message.subject, message.payload, headers=headers, reply=reply
                    )
        except BrokerUnavailable as error:
            # Without its commit the batch is dropped by the server.
            self._replies.forget(reply)
            return [_unreachable(error)] * last
        except ConfigError:
            self._replies.forget(reply)
            return None
        except BaseException:
            self._replies.forget(reply)
            raise
        [answer] = await self._replies.gather([reply], timeout=timeout)
        outcome = classify(answer)
        match outcome:
            case Stored(stream_seq):
                first = stream_seq - last + 1
                return [Stored(first + place) for place in range(last)]
            case Refused(err_code=err_code, heals=heals):
                if err_code == ATOMIC_DISABLED:
                    self._not_atomic[stream] = self._connection.epoch
                if heals and err_code != ATOMIC_DISABLED:
                    return [outcome] * last
                return None
            case _:
                return [outcome] * last

    # ------------------------------------------------------------------ singles

    async def _singles(
        self, messages: Sequence[Message], timeout: timedelta
    ) -> Sequence[PublishOutcome]:
        outcomes: list[PublishOutcome] = [Held()] * len(messages)
        lanes: dict[str, deque[int]] = {}
        for index, message in enumerate(messages):
            lanes.setdefault(message.key, deque()).append(index)
        waiting = deque(lanes.values())
        while waiting:
            round_ = [waiting.popleft() for _ in range(min(WINDOW, len(waiting)))]
            heads = [lane.popleft() for lane in round_]
            results = await self._send([messages[index] for index in heads], timeout)
            ill = None
            for lane, index, outcome in zip(round_, heads, results, strict=True):
                outcomes[index] = outcome
                if isinstance(outcome, Stored) and lane:
                    waiting.append(lane)
                elif _concerns_the_stream(outcome):
                    ill = outcome
            if ill is not None:
                break
        return outcomes

    async def _send(
        self, messages: Iterable[Message], timeout: timedelta
    ) -> Sequence[PublishOutcome]:
        refused: dict[int, PublishOutcome] = {}
        replies: list[str] = []
        try:
            for place, message in enumerate(messages):
                reply, _ = self._replies.expect()
                replies.append(reply)
                try:
                    await self._connection.publish(
                        message.subject, message.payload, headers=message.headers, reply=reply
                    )
                except BrokerUnavailable as error:
                    refused[place] = _unreachable(error)
                    self._replies.forget(reply)
                except ConfigError as error:
                    refused[place] = Refused(str(error), code=400, err_code=0, heals=False)
                    self._replies.forget(reply)
        except BaseException:
            for reply in replies:
                self._replies.forget(reply)
            raise
        answers = await self._replies.gather(replies, timeout=timeout)
        return [
            refused[place] if place in refused else classify(answer)
            for place, answer in enumerate(answers)
        ]


def _concerns_the_stream(outcome: PublishOutcome) -> bool:
    """Whether trying further messages now would only find the same."""
    return isinstance(outcome, Unconfirmed) or (isinstance(outcome, Refused) and outcome.heals)


def _unreachable(error: BrokerUnavailable) -> Refused:
    return Refused(str(error), code=503, err_code=0, heals=True)
