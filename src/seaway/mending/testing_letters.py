"""What a letter's test needs is gathered: its event, who failed at it, what is known of both.

Looking only. What is not at hand (the database, headers that were left in the stream) is not in
the test, and is told in its ``notes``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from seaway.consumer import Consumer
from seaway.contracts import Message
from seaway.contracts.history import HistoryStore
from seaway.databases.engines import SQLITE, of_scheme
from seaway.dead_letters import DeadLetters, Letter
from seaway.dead_letters.cause import cause_of
from seaway.errors import ConfigError, DecodeError, NotFound, SeawayError
from seaway.events import EventType
from seaway.headers import format_time
from seaway.mending.application import Application
from seaway.mending.letter_test import Given, LetterTest, Runs, hide, json_of, written
from seaway.mending.redacting import Check, Redacted, named, redact
from seaway.naming import stream_context
from seaway.words import counted

DJANGO = "seaway.django.project:discovered"
"""The application of a Django project, whose tests are Django's."""

_NAMED = 5
"""How many letters a sentence names."""


@dataclass
class Gathering:
    """One letter's test, in the making."""

    letters: DeadLetters
    application: Application
    app: str
    fields: Sequence[str]
    database: Callable[[], Awaitable[HistoryStore]]
    """Asked for what the inbox knows; a ``SeawayError`` says why it is not at hand."""
    state: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def made(self, letter: Letter) -> LetterTest:
        """The test of ``letter``; see ``Mending.as_test``."""
        if letter.problem:
            raise ConfigError(
                f"{letter.id}: {letter.problem}, so no test can be made of it; it can be shown and "
                "discarded"
            )
        consumer = self._consumer(letter)
        letter = await self.letters.get(letter.id)
        first = await self._before(letter) if letter.waits else None
        given: list[Given] = []
        if first is not None:
            given.append(await self._given(consumer, first, f"{first.id}, which failed."))
        given.append(await self._given(consumer, letter, "It waits behind that." if given else ""))
        self._refuse_missing(given)
        if first is not None:
            error = ": ".join(part for part in (first.error_type, first.error) if part)
            error = f": {hide(given, error)}" if error else ""
            self.state.append(f"It waits behind {first.id}{error}.")
        await self._tell(letter, consumer)
        source = written(
            *(letter, given),
            app=self.app,
            runs=self._runs(consumer),
            place=cause_of(letter).where,
            state=self.state,
        )
        return LetterTest(source=source, notes=tuple(self.notes))

    def _consumer(self, letter: Letter) -> Consumer:
        found = self.application.consumers.get(letter.consumer)
        if found is None:
            known = ", ".join(sorted(self.application.consumers)) or "none"
            raise ConfigError(
                f"{letter.id} is of {letter.consumer}, which {self.app} does not declare",
                hint=f"it declares {known}; name the application that has it",
            )
        if not found.handles(letter.subject):
            raise ConfigError(
                f"{letter.id}: {letter.consumer} has no handler for {letter.subject} any more, so "
                "there is nothing to be tested",
                hint="write the handler first, or discard the letter",
            )
        return found

    # ------------------------------------------------------------------ what is delivered

    async def _before(self, letter: Letter) -> Letter | None:
        """Of what ``letter`` waits behind, that which failed."""
        context = stream_context(letter.stored.stream)
        own = await self.letters.of_consumer(context, letter.consumer)
        failed = [one for one in own if one.key == letter.key and not (one.waits or one.problem)]
        if not failed:
            self.state.append("The event that it waits behind has no letter any more.")
            self.notes.append(
                f"{letter.id} waits behind an event that has no letter any more: its test makes no "
                "other delivery than its own, and may pass."
            )
            return None
        return await self.letters.get(min(failed, key=lambda one: one.stream_seq).id)

    async def _given(self, consumer: Consumer, letter: Letter, said: str) -> Given:
        event = await self._event(letter)
        hidden = None
        if self.fields:
            found = json_of(event.payload)
            if found is None:
                raise ConfigError(
                    f"{letter.id}: its payload is not JSON that a test could show, so nothing in "
                    "it can be redacted"
                )
            registration = consumer.handlers.find(letter.subject)
            kind = None if registration is None else registration.event_type
            hidden = redact(
                found.only,
                self.fields,
                check=_check(kind),
                among=[] if kind is None else _among(kind),
            )
            self._look_for(letter, hidden)
        return Given(letter=letter, event=event, redacted=hidden, said=said)

    def _refuse_missing(self, given: Sequence[Given]) -> None:
        missing = [set(one.redacted.missing) for one in given if one.redacted is not None]
        for name in self.fields:
            if all(name in one for one in missing):
                there = "; ".join(named(one.redacted.value) for one in given if one.redacted)
                raise ConfigError(
                    f"--redact {name!r} is not in the payload", hint=f"there are: {there}"
                )

    async def _event(self, letter: Letter) -> Message:
        try:
            return await self.letters.event(letter)
        except NotFound as error:
            if letter.by_reference:
                raise NotFound(
                    f"{letter.id}: its payload was left in {letter.stream}:{letter.stream_seq}, "
                    "which does not hold it any more, so no test can be made of it"
                ) from error
            self.notes.append(
                f"{letter.id}: some headers were left in {letter.stream}:{letter.stream_seq}, "
                "which does not hold them any more: the test is without them."
            )
            return Message(letter.subject, letter.payload, letter.headers)

    def _look_for(self, letter: Letter, hidden: Redacted) -> None:
        """Say where what is hidden stands in the open."""
        for path, text in _texts(hidden.value):
            if hidden.hide(text) != text:
                where = ".".join(map(str, path))
                self.notes.append(
                    f"{letter.id}: what is redacted stands in {where or 'the payload'} as well; "
                    f"--redact {where!r} hides that."
                )

    # ------------------------------------------------------------------ what is known besides

    async def _tell(self, letter: Letter, consumer: Consumer) -> None:
        behind = await self.letters.waiting([letter])
        if behind:
            named = ", ".join(one.id for one in behind[:_NAMED])
            more = f" and {len(behind) - _NAMED} more" if len(behind) > _NAMED else ""
            verb = "waits" if len(behind) == 1 else "wait"
            self.state.append(
                f"Behind it {verb} {counted(len(behind), 'event')} of its key: {named}{more}."
            )
        try:
            self.state += await _known(await self.database(), letter)
        except SeawayError as error:
            self.notes.append(f"The database was not asked: {error}")
        if letter.lacks_headers:
            self.state.append("Some of its headers are nowhere any more.")
        if (runs := self._runs(consumer)) != "django" and consumer.tx not in ("store", None):
            self.state.append(
                f"{letter.consumer} brings its own transactions (tx=), so the test needs a fixture "
                f"{runs} that names their database."
            )

    def _runs(self, consumer: Consumer) -> Runs:
        if self.app == DJANGO and consumer.plain:
            return "django"
        engine = of_scheme(self.application.settings.database.partition("://")[0])
        return "seaway_database" if engine in (SQLITE, None) else "seaway_postgres_url"


async def _known(history: HistoryStore, letter: Letter) -> list[str]:
    """What inbox and waiting events say of ``letter``'s event."""
    said, of = [], letter.consumer
    rows = {one.consumer: one for one in await history.rows_of([letter.event_id])}
    if of in rows:
        said.append(f"Its inbox has it as handled since {format_time(rows[of].at)}.")
    else:
        said.append("The inbox has no effects of it.")
    for one in await history.unhandled([letter.event_id]):
        if one.consumer == of and one.waiting and one.behind is not None:
            said.append(f"What comes before it is event {one.behind}.")
    return said


def name_of(application: object) -> str:
    """``module:name`` by which ``application`` can be imported; ``ConfigError`` where no module has
    it."""
    for module, found in list(sys.modules.items()):
        if module == "__main__":
            continue
        for name, value in list(getattr(found, "__dict__", {}).items()):
            if value is application and name.isidentifier():
                return f"{module}:{name}"
    raise ConfigError(
        "no module has this application by a name, so a test cannot import it",
        hint='say where it is: as_test(letter, app="module:app")',
    )


# ------------------------------------------------------------------------------- its class


def _check(kind: EventType[Any] | None) -> Check:
    def check(payload: bytes) -> str | None:
        if kind is None:
            return None
        try:
            kind.decode(payload)
        except DecodeError as error:
            return error.field or "payload"
        return None

    return check


def _among(kind: EventType[Any]) -> Sequence[Any]:
    """The values that the class asks for by themselves."""
    try:
        schema = TypeAdapter(kind.cls).json_schema()
    except Exception:  # Not every type has one.
        return ()
    return [one for node in _nodes(schema) for one in (*node.get("enum", ()), *_const(node))]


def _const(node: Mapping[str, Any]) -> Sequence[Any]:
    return [node["const"]] if "const" in node else []


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    members = schema.values() if isinstance(schema, dict) else schema
    for one in members if isinstance(schema, dict | list) else ():
        yield from _nodes(one)


def _texts(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts(one, (*path, name))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from _texts(one, (*path, at))
