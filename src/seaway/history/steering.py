"""What a durable's reset or pause will cause, found out before it is done; and doing it.

    reset   the server gives out again from a place on ──> the inbox skips what took effect
    pause   it gives out nothing until then ──> messages pile up, and may expire

Owns: those forecasts. Guarantees: forecasting changes nothing; what is done is noted in the log, if
there is a database, with who did it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway.config import Settings
from seaway.contracts import (
    PAUSES_SINCE,
    BrokerAdmin,
    ConsumerInfo,
    Incoming,
    LogEntry,
    LogStore,
    Store,
    StreamInfo,
)
from seaway.errors import ConfigError, NotFound
from seaway.headers import format_time
from seaway.history.replay.window import Bound
from seaway.history.stations import place_at
from seaway.inbox.letters import letter_rows
from seaway.naming import kind_of, redrive_stream, stream_context

Advance = Callable[[int], None]

_RATE_OVER = timedelta(hours=1)
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ResetForecast:
    """What a reset will cause. Counts are of messages."""

    stream: str
    durable: str
    to: int
    """From this sequence on everything is given out again."""
    again: int
    """Given out again."""
    skipped: int
    """Of those, the ones that the inbox knows: their effect is there, or their letter."""
    handled: int
    """Of those, the ones that handlers are called with."""
    forgotten: int
    """Of ``handled``, those so old that the inbox no longer knows: effects that they had are
    repeated."""
    pending: int
    """Not given out yet, which come after them."""
    processes: int
    """Pulls that wait: who is at work gets them at once."""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PauseForecast:
    """What a pause will cause."""

    stream: str
    durable: str
    until: datetime
    pending: int
    """Messages that wait now."""
    rate: float
    """Messages a second that came for it in the last hour."""
    expected: int
    """How many will wait at its end, at that rate."""
    threshold: int
    """``alerts.stream_messages_pending``."""
    alarms_at: datetime | None
    """When more than that wait, at that rate; ``None``: not before the pause ends."""
    expires_at: datetime | None
    """When the first message that waits is dropped by its stream's ``max_age``, unhandled;
    ``None``: not before the pause ends."""
    held: int = 0
    """Given out and not settled: those go on."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            name: format_time(value) if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


async def durable_of(admin: BrokerAdmin, stream: str, durable: str) -> ConsumerInfo:
    """The durable; ``NotFound`` where there is none."""
    found = await admin.consumer(stream, durable)
    if found is None:
        raise NotFound(f"there is no consumer {durable} on {stream}")
    return found


# ------------------------------------------------------------------------------- reset


async def forecast_reset(
    admin: BrokerAdmin,
    settings: Settings,
    store: Store | None,
    stream: str,
    durable: str,
    to: Bound = None,
    *,
    advance: Advance = lambda count: None,
) -> ResetForecast:
    """What setting the durable back to ``to`` will cause; ``None``: to what is not acknowledged.

    ``store``: the service's database, whose inbox tells what is skipped; ``None``: it is not known,
    so nothing counts as skipped. Reads the headers of what is given out again.
    """
    info, held = await durable_of(admin, stream, durable), await _stream(admin, stream)
    place = info.ack_floor + 1
    if isinstance(to, datetime):
        place = await place_at(admin, held, to)
    elif to is not None:
        place = to
    place = max(place, held.first_seq, 1)
    if place > held.last_seq + 1:
        raise ConfigError(f"{stream} ends at {held.last_seq}: there is nothing at {place}")
    notes = []
    if store is None:
        notes.append("no database: which of them the inbox skips is not known")
    elif info.consumer_seq and not await store.has_effects(durable):
        notes.append(
            f"this database has no effect of {durable}: is it that of the service that runs it?"
        )
    counted = _Counting(durable, store, settings.inbox.retention or None)
    source = admin.read(stream, filter_subjects=info.filters, from_seq=place, headers_only=True)
    async with aclosing(source) as messages:
        async for one in messages:
            if one.stream_seq > info.stream_seq:
                break
            advance(1)
            await counted.add(Incoming.read(one, durable, deliveries=1))
    await counted.ask()
    return ResetForecast(
        *(stream, durable, place, counted.all, counted.skipped),
        handled=counted.all - counted.skipped,
        forgotten=counted.forgotten,
        pending=info.num_pending,
        processes=info.num_waiting,
        notes=tuple(notes),
    )


class _Counting:
    """Messages, counted by what the inbox knows of them."""

    def __init__(self, durable: str, store: Store | None, retention: timedelta | None) -> None:
        self._durable = durable
        self._store = store
        self._since = None if retention is None else datetime.now(UTC) - retention
        self._chunk: list[Incoming] = []
        self.all = self.skipped = self.forgotten = 0

    async def add(self, one: Incoming) -> None:
        self._chunk.append(one)
        if len(self._chunk) == _AT_ONCE:
            await self.ask()

    async def ask(self) -> None:
        chunk, self._chunk = self._chunk, []
        self.all += len(chunk)
        if not chunk or self._store is None:
            return
        effects = await self._store.claimed(self._durable, {one.event_id for one in chunk})
        rest = [one for one in chunk if one.event_id not in effects]
        name, rows = letter_rows(self._durable, rest)
        letters = await self._store.claimed(name, rows) if rows else set()
        self.skipped += len(chunk) - len(rest) + len(letters)
        lettered = {rows[row] for row in letters}
        if self._since is not None:
            self.forgotten += sum(
                one.stored_at < self._since and one.place not in lettered for one in rest
            )


async def reset(
    admin: BrokerAdmin, log: LogStore | None, forecast: ResetForecast, *, by: str
) -> None:
    """Set it back. ``CannotRewind`` where its server, or the durable itself, does not let that be
    done."""
    if not await admin.reset_consumer(forecast.stream, forecast.durable, forecast.to):
        raise NotFound(f"there is no consumer {forecast.durable} on {forecast.stream}")
    await _note(log, "consumer reset", forecast.durable, forecast.as_json(), by)


# ------------------------------------------------------------------------------- pause


async def forecast_pause(
    admin: BrokerAdmin, settings: Settings, stream: str, durable: str, until: datetime
) -> PauseForecast:
    """What pausing it until then will cause, at the rate of the last hour."""
    now = datetime.now(UTC)
    if until <= now:
        raise ConfigError(f"the pause ends in the past: {format_time(until)}")
    info, held = await durable_of(admin, stream, durable), await _stream(admin, stream)
    begins = await place_at(admin, held, now - _RATE_OVER)
    came = await admin.count(stream, filter_subjects=info.filters, from_seq=begins)
    span = _RATE_OVER
    if held.first_at is not None and came == held.messages:
        # All of it is younger than that: over as long as there was any.
        span = max(timedelta(seconds=1), min(span, now - held.first_at))
    rate = came / span.total_seconds()
    length = (until - now).total_seconds()
    threshold = settings.alerts.stream_messages_pending
    return PauseForecast(
        *(stream, durable, until, info.num_pending, rate),
        expected=info.num_pending + round(rate * length),
        threshold=threshold,
        alarms_at=_within(until, _crossing(info.num_pending, threshold, rate, now)),
        expires_at=_within(until, await _expiry(admin, info, held)),
        held=info.num_ack_pending,
    )


def _crossing(pending: int, threshold: int, rate: float, now: datetime) -> datetime | None:
    if pending > threshold:
        return now
    if rate <= 0:
        return None
    seconds = (threshold + 1 - pending) / rate
    return now + timedelta(seconds=seconds) if seconds < 1e9 else None


def _within(until: datetime, moment: datetime | None) -> datetime | None:
    return moment if moment is not None and moment < until else None


async def _expiry(admin: BrokerAdmin, info: ConsumerInfo, held: StreamInfo) -> datetime | None:
    """When the first message that it has not handled expires; of what comes yet, if there is
    none."""
    age = timedelta(microseconds=int(held.config.get("max_age") or 0) // 1000)
    if not age:
        return None
    source = admin.read(
        info.stream,
        filter_subjects=info.filters,
        from_seq=info.ack_floor + 1,
        headers_only=True,
    )
    async with aclosing(source) as messages:
        async for one in messages:
            return one.stored_at + age
    return datetime.now(UTC) + age


def paused_streams(stream: str) -> Sequence[str]:
    """The streams on which a durable is paused together: its own, and that of its redrives."""
    if kind_of(stream) != "events":
        return [stream]
    return [stream, redrive_stream(stream_context(stream))]


async def pause(
    admin: BrokerAdmin, log: LogStore | None, forecast: PauseForecast, *, by: str
) -> None:
    """Pause it, with its redrives."""
    _refuse_old((await admin.server_info()).release)
    for stream in paused_streams(forecast.stream):
        found = await admin.pause_consumer(stream, forecast.durable, forecast.until)
        if not found and stream == forecast.stream:
            raise NotFound(f"there is no consumer {forecast.durable} on {stream}")
    await _note(log, "consumer paused", forecast.durable, forecast.as_json(), by)


async def resume(
    admin: BrokerAdmin, log: LogStore | None, stream: str, durable: str, *, by: str
) -> bool:
    """Have it go on, with its redrives; whether it was paused."""
    _refuse_old((await admin.server_info()).release)
    info = await durable_of(admin, stream, durable)
    for name in paused_streams(stream):
        await admin.pause_consumer(name, durable, None)
    detail = {"stream": stream, "pending": info.num_pending}
    if info.paused_until is not None:
        detail |= {"paused_until": format_time(info.paused_until)}
        await _note(log, "consumer resumed", durable, detail, by)
    return info.paused_until is not None


def _refuse_old(release: tuple[int, ...]) -> None:
    if () < release < PAUSES_SINCE:
        raise ConfigError(
            "this nats-server cannot pause a durable", hint="upgrade it to 2.11 or newer"
        )


async def _stream(admin: BrokerAdmin, name: str) -> StreamInfo:
    found = await admin.stream(name)
    if found is None:
        raise NotFound(f"there is no stream {name}")
    return found


async def _note(
    log: LogStore | None, action: str, about: str, detail: dict[str, Any], by: str
) -> None:
    if log is not None:
        await log.note(LogEntry(action, about, detail, by), seen=True)
