"""Streams and durables as a server would describe them that has this configuration; a consumer as
a sweeper knows it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seaway.brokers.jetstream.api import consumer_info, stream_info
from seaway.contracts import JSON, ConsumerInfo, StreamInfo

MADE = "2026-11-01T00:00:00.123456789Z"
STATE = {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 0}


def a_stream(config: JSON, *, cluster: str | None = None, **state: Any) -> StreamInfo:
    answer: JSON = {
        "config": copy.deepcopy(config),
        "created": MADE,
        "state": {**STATE, "first_ts": "0001-01-01T00:00:00Z", **state},
    }
    return stream_info(answer if cluster is None else {**answer, "cluster": {"name": cluster}})


def a_consumer(stream: str, durable: str, config: JSON, **state: Any) -> ConsumerInfo:
    nowhere = {"consumer_seq": 0, "stream_seq": 0}
    numbers = dict.fromkeys(("num_pending", "num_ack_pending", "num_redelivered", "num_waiting"), 0)
    return consumer_info(
        {
            "stream_name": stream,
            "name": durable,
            "created": MADE,
            "config": copy.deepcopy(config),
            "delivered": nowhere,
            "ack_floor": nowhere,
            **numbers,
            **state,
        }
    )


@dataclass(frozen=True)
class ASweptConsumer:
    """``handles``: whether it has a handler for a subject."""

    stream: str
    handles: Callable[[str], bool] = lambda subject: True
    parks: bool = False
