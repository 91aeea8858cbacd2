"""Denied permissions: read from the server's errors, logged once, passed on to who waits.

The server says so beside the messages, in an ``-ERR`` that names the subject; who waits for an
answer hears nothing. Owns: reading that, and what is denied now. Guarantees: each right that is
lacking is told once, with the way out, to the log and to ``Telemetry.waits``, until something
shows that it was granted; whoever watches hears of each denial at once. Must not know who asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

from seaway import logs
from seaway.config import OWN_API
from seaway.errors import NotPermitted
from seaway.telemetry import Telemetry

logger = logs.logger("seaway.nats")

Verb: TypeAlias = Literal["publish", "subscribe"]
Watcher: TypeAlias = Callable[[NotPermitted], None]

PART = "permissions"
"""As which part ``Telemetry.waits`` names what is denied."""

_DENIED = re.compile(
    r'permissions violation for (publish|subscription)(?: to| with reply of) "([^"]*)"',
    re.IGNORECASE,
)
"""The protocol's one form of it: an ``-ERR`` has no code."""

_ACK_TOKENS = 4
_DOMAIN_ACK_TOKENS = 6


def right_to(subject: str, *, inbox: str, api: str = OWN_API) -> str:
    """What has to be granted for ``subject``, as the lists of ``seaway permissions`` have it:
    one of few, however many subjects there are. ``inbox``: the prefix of reply subjects, ``api``:
    that of JetStream's API."""
    if subject.startswith(f"{inbox}."):
        return f"{inbox}.>"
    if subject.startswith(f"{api}."):
        return subject
    tokens = subject.split(".")
    if subject.startswith("$JS.ACK."):
        # stream.consumer.deliveries.stream_seq.consumer_seq.time.pending, perhaps behind domain
        # and account: each delivery has a subject of its own.
        kept = _ACK_TOKENS if len(tokens) <= 9 else _DOMAIN_ACK_TOKENS
        return ".".join((*tokens[:kept], ">"))
    if subject.startswith("$") or len(tokens) == 1:
        return subject
    kept = {"event": 2, "dlq": 2, "redrive": 3}.get(tokens[1], 1)
    if tokens[1:3] == ["redrive", "later"]:
        kept = 4
    return ".".join((*tokens[: min(kept, len(tokens) - 1)], ">"))


class Denials:
    """Of one connection."""

    def __init__(self, telemetry: Telemetry, *, inbox: str, api: str = OWN_API) -> None:
        self._telemetry = telemetry
        self._prefixes = {"inbox": inbox, "api": api}
        self._known: dict[tuple[Verb, str], NotPermitted] = {}
        """By verb and right: of the subject that was denied last."""
        self._watchers: set[Watcher] = set()

    @property
    def known(self) -> bool:
        """Whether anything is denied, as far as is known."""
        return bool(self._known)

    @property
    def deaf(self) -> NotPermitted | None:
        """Why no answer can be heard, where that is so."""
        return next((one for one in self._known.values() if one.verb == "subscribe"), None)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call ``watcher`` with each denial, until the returned call (idempotent)."""
        self._watchers.add(watcher)
        return partial(self._watchers.discard, watcher)

    def heard(self, text: str) -> NotPermitted | None:
        """What the server said; the denial, where it is one."""
        found = _DENIED.search(text)
        if found is None:
            return None
        verb: Verb = "publish" if found[1].lower() == "publish" else "subscribe"
        subject = found[2]
        key = verb, right_to(subject, **self._prefixes)
        # Asked of a domain at one of its own servers, which looks for the right to its own API.
        asked = subject.replace(f"{OWN_API}.", f"{self._prefixes['api']}.", 1)
        denial = NotPermitted(verb, asked, key[1])
        if key not in self._known:
            logger.error("%s", denial)
        self._known[key] = denial
        self._telemetry.waiting(PART, " ".join(key), str(denial))
        for watcher in tuple(self._watchers):
            watcher(denial)
        return denial

    def answered(self, subject: str) -> None:
        """What was published to ``subject`` was answered: that is granted, and hearing answers."""
        if not self._known:
            return
        right = right_to(subject, **self._prefixes)
        own = right.replace(f"{self._prefixes['api']}.", f"{OWN_API}.", 1)
        key: tuple[Verb, str] = "publish", own if ("publish", own) in self._known else right
        # One subject of several may be denied; those of acknowledgements never come again.
        denial = self._known.get(key)
        if denial and (denial.subject == subject or subject.startswith("$JS.ACK.")):
            self._granted(key)
        for one in tuple(self._known):
            if one[0] == "subscribe":
                self._granted(one)

    def forget(self) -> None:
        """The connection is another: nothing is known of what it may do."""
        for key in tuple(self._known):
            self._granted(key)

    def _granted(self, key: tuple[Verb, str]) -> None:
        if self._known.pop(key, None) is not None:
            about = " ".join(key)
            self._telemetry.going_on(PART, about)
            logger.info("no denial any more: %s", about)
