"""JetStream's err_codes, and what the rest of Seaway hears of them. Source: nats-server's
``errors.json`` (2.15).

Owns: the numbers. Nobody else compares one: ``Refused`` and ``ApiError`` say in ``why`` what a
caller acts on, and carry the code for people.
"""

from __future__ import annotations

from collections.abc import Mapping

from seaway.contracts import Refused, WhyRefused
from seaway.errors import ApiError, WhyApi

CONSUMER_CREATE_FAILED = 10012
CONSUMER_NAME_IN_USE = 10013
CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
CONSUMER_DOES_NOT_EXIST = 10149
MESSAGE_NOT_FOUND = 10037
MESSAGE_NOT_DELETED = frozenset({10057, 10043})
"""It was not there; the latter says so of its sequence."""
STREAM_EXISTS = 10058
STREAM_NOT_FOUND = 10059
SUBJECTS_OVERLAP = 10065
STREAM_FULL = 10077
TOO_LARGE = 10054
ATOMIC_DISABLED = 10174

_HEALING = frozenset({10076, 10039, 10167, 10158})
"""JetStream not enabled (server, account), too many requests, the same id being stored just now:
the way out is elsewhere, and the message is fine."""
_REFUSED: Mapping[int, WhyRefused] = {
    STREAM_NOT_FOUND: "no_stream",
    # No room in the stream (whichever of its bounds: the code is one), in the account, in the
    # server's memory or on its disk.
    **dict.fromkeys((STREAM_FULL, 10002, 10023, 10028, 10047), "full"),
    TOO_LARGE: "too_large",
    10097: "unfit",  # More headers than the server takes.
}
_API: Mapping[int, WhyApi] = {
    **dict.fromkeys((10035, 10039, 10076), "no_jetstream"),
    **dict.fromkeys((10005, 10074), "too_many_replicas"),
    SUBJECTS_OVERLAP: "subjects_taken",
}


def refused(description: str, *, code: int, err_code: int) -> Refused:
    """Of a message that a server refused, or would."""
    why = _REFUSED.get(err_code, "other")
    if code == 400 and err_code == 0:
        why = "unfit"
    heals = code >= 500 or err_code in _HEALING or why in ("full", "no_stream")
    return Refused(description, code, err_code, heals=heals, why=why)


def api_error(description: str, *, code: int, err_code: int) -> ApiError:
    """Of a request that a server refused, or would."""
    return ApiError(description, code=code, err_code=err_code, why=_API.get(err_code, "other"))
