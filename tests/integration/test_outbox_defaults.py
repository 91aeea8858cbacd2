"""Every PostgreSQL handle on databases whose defaults suit somebody else: events as given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import pytest

from drivers import DRIVERS, Driver
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.testing.databases import Databases

SUBJECT = "sea.event.case_created.v1"
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "repeatable_read": {"default_transaction_isolation": "'repeatable read'"},
    "serializable": {"default_transaction_isolation": "'serializable'"},
    "texts": {
        "standard_conforming_strings": "off",
        "escape_string_warning": "off",
        "bytea_output": "'escape'",
        "DateStyle": "'SQL, DMY'",
        "IntervalStyle": "'sql_standard'",
        "TimeZone": "'Asia/Kathmandu'",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
    },
    "plans": {
        "plan_cache_mode": "'force_generic_plan'",
        "enable_indexscan": "off",
        "jit_above_cost": "0",
        "session_replication_role": "'replica'",
        "row_security": "off",
    },
}


@pytest.fixture(scope="module", params=list(DEFAULTS.values()), ids=list(DEFAULTS))
def hostile_url(postgres_databases: Databases, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with those defaults."""
    name = postgres_databases.create()
    for setting, value in request.param.items():
        postgres_databases.run(f'ALTER DATABASE "{name}" SET {setting} = {value}')
    yield postgres_databases.url(name)
    postgres_databases.leave(name)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "kind", [kind for kind in DRIVERS if kind.engine == "postgres"], ids=lambda kind: kind.__name__
)
async def test_events_arrive_as_they_were_given(
    kind: type[Driver], hostile_url: str, count: int
) -> None:
    driver, payload, key = kind(hostile_url), bytes(range(256)), "a'b\\c\"{d},%s:x$1 NULL süd"
    events = [
        RawEvent(SUBJECT, payload, headers={"X-Note": 'q"uo\\te, {%s}'}) for _ in range(count)
    ]
    async with driver.transaction() as tx:
        added: Any = Outbox().add(tx, *events, key=key)
        ids: list[str] = added if isinstance(added, list) else await added
    other = await asyncpg.connect(hostile_url)
    found = await other.fetch(
        "DELETE FROM seaway_outbox RETURNING event_id::text, subject, ordering_key, payload, "
        "headers::text, clock_timestamp() - added_at < interval '1 minute'"
    )
    await other.close()
    for row, event_id in zip(found, ids, strict=True):
        assert tuple(row)[:4] == (event_id, SUBJECT, key, payload)
        assert json.loads(row[4])["X-Note"] == 'q"uo\\te, {%s}'
        assert row[5]
