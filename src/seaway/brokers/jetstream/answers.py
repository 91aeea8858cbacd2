"""What a publish acknowledgement, or its absence, says of a message. Pure.

Source: nats-server's ``errors.json``; refusals are told by ``code`` and ``err_code``.
"""

from __future__ import annotations

import json

from seaway.brokers.jetstream.frames import Frame
from seaway.contracts import DENIED, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.errors import BrokerUnavailable

TOO_LARGE = 10054
ATOMIC_DISABLED = 10174

_HEALING = frozenset({10059, 10076, 10039, 10167, 10158})
"""Stream not found, JetStream not enabled (server, account), too many requests, the same id being
stored just now: the way out is elsewhere, and the message is fine."""
_FULL = frozenset({10077, 10002, 10023, 10028, 10047})
"""No room in the stream (whichever of its bounds: the code is one), in the account, in the server's
memory or on its disk."""


def classify(answer: Frame | None, domain: str | None = None) -> PublishOutcome:
    """``None``: no acknowledgement came. ``domain``: of which it has to be."""
    if answer is None:
        return Unconfirmed("no acknowledgement in time")
    if answer.status == "503":
        return Refused("no stream takes this subject", code=503, err_code=0, heals=True)
    try:
        content = json.loads(answer.data)
        error = content.get("error")
        if error is None:
            taken = content.get("domain", domain)
            if domain is not None and taken != domain:
                # Two domains have a stream of this subject: ours may not have it yet.
                return Unconfirmed(
                    f"a stream of the domain {taken!r} takes this subject too: it says nothing of "
                    f"the one of {domain!r}"
                )
            return Stored(int(content["seq"]), bool(content.get("duplicate", False)))
        code, err_code = int(error.get("code", 0)), int(error.get("err_code", 0))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Unconfirmed("the acknowledgement cannot be read")
    return Refused(
        str(error.get("description", "refused")),
        code=code,
        err_code=err_code,
        heals=code >= 500 or err_code in _HEALING or err_code in _FULL,
        full=err_code in _FULL,
    )


def concerns_the_stream(outcome: PublishOutcome) -> bool:
    """Whether trying further messages now would only find the same. What is denied is denied to a
    subject, and others need not be; nor is what has no room."""
    if isinstance(outcome, Refused):
        return outcome.heals and not outcome.full and outcome.code != DENIED
    return isinstance(outcome, Unconfirmed)


def denied(subject: str) -> Refused:
    """Of a message whose subject the server does not let us publish to: nothing is wrong with the
    message, and the right may be granted any time."""
    return Refused(f"no permission to publish to {subject}", code=DENIED, err_code=0, heals=True)


def unreachable(error: BrokerUnavailable) -> Refused:
    """Of a message that was not sent."""
    return Refused(str(error), code=503, err_code=0, heals=True)
