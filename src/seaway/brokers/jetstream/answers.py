"""What a publish acknowledgement, or its absence, says of a message. Pure."""

from __future__ import annotations

import json

from seaway.brokers.jetstream.codes import refused
from seaway.brokers.jetstream.frames import Frame
from seaway.contracts import PublishOutcome, Refused, Stored, Unconfirmed
from seaway.errors import BrokerUnavailable


def classify(answer: Frame | None, domain: str | None = None) -> PublishOutcome:
    """``None``: no acknowledgement came. ``domain``: of which it has to be."""
    if answer is None:
        return Unconfirmed("no acknowledgement in time")
    if answer.status == "503":
        return unheard("no stream takes this subject")
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
    return refused(str(error.get("description", "refused")), code=code, err_code=err_code)


def concerns_the_stream(outcome: PublishOutcome) -> bool:
    """Whether trying further messages now would only find the same. What is denied is denied to a
    subject, and others need not be; nor is what has no room."""
    if isinstance(outcome, Refused):
        return outcome.heals and outcome.why not in ("full", "denied")
    return isinstance(outcome, Unconfirmed)


def denied(subject: str) -> Refused:
    """Of a message whose subject the server does not let us publish to: nothing is wrong with the
    message, and the right may be granted any time."""
    return Refused(f"no permission to publish to {subject}", 403, 0, heals=True, why="denied")


def unreachable(error: BrokerUnavailable) -> Refused:
    """Of a message that was not sent."""
    return unheard(str(error))


def unheard(description: str) -> Refused:
    """Of a message that no stream was there for."""
    return Refused(description, 503, 0, heals=True, why="unheard")
