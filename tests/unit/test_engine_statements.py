"""What an engine's folder has: the statements that every store asks for, and its migrations."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from seaway.databases.engines import ENGINES, POSTGRES, SQLITE, Engine, of_dialect, of_scheme
from seaway.databases.queries import Statements
from seaway.stores.schema import migrations

OPTIONAL = {
    "check_deferred",
    "claim_many",
    "keep_given_up",
    "lock_upgrade",
    "processed_page",
    "sent_of_correlation",
    "sent_of_event",
    "tally_processed",
    "tally_sent",
    "to_discard",
    "tried",
    "unparked",
}
"""What a store asks for where it is there."""
ASKING = (
    re.compile(r'_read\(\s*"(\w+)"'),
    re.compile(r'_touch\(\s*"(\w+)"'),
    re.compile(r'_touched\(\s*"(\w+)"'),
    re.compile(r'\.rows\(\s*"(\w+)"'),
    re.compile(r'\.of\(\s*"(\w+)"'),
    re.compile(r'\bsql\[[\'"](\w+)[\'"]\]'),
    re.compile(r'engine\)\["(\w+)"\]'),
)


def asked_for() -> set[str]:
    """The names in what is written once for all engines."""
    seaway = files("seaway")
    text = "".join(
        seaway.joinpath(path).read_text("utf-8")
        for path in ("stores/relational.py", "stores/schema.py", "inbox/transaction.py")
    )
    return {name for pattern in ASKING for name in pattern.findall(text)}


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_engine_has_every_statement_that_all_stores_ask_for(engine: Engine) -> None:
    wanted = asked_for()
    assert {"claim", "claim_many", "entries", "parked_heads", "tell", "record_by_hand"} <= wanted
    assert wanted - OPTIONAL - Statements(engine).keys() == set()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_engine_has_migrations_from_the_first(engine: Engine) -> None:
    assert migrations(engine)[0].version == 1


def test_parameters_have_numbers_in_the_order_in_which_they_come() -> None:
    statements = Statements(POSTGRES, "events")
    query = statements.of("claim_many", {"event_ids": ["b", "a"], "consumer": "c", "more": 1})
    assert "$1, unnest(CAST($2 AS text[]))" in query.statement
    assert '"events".seaway_inbox' in query.statement
    assert query.parameters == ("c", ["b", "a"])
    assert statements.of("forget_process", {"process": "p"}).parameters == ("p",)


def test_or_names_and_what_sqlite_can_hold() -> None:
    before = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    statements = Statements(SQLITE)
    query = statements.of("claim_many", {"consumer": "c", "event_ids": ["b", "a"]})
    assert isinstance(query.parameters, dict)
    assert query.parameters["event_ids"] == '["b", "a"]'
    assert query.parameters["now"] > 0
    query = statements.of("overdue_sent", {"before": before})
    assert query.parameters == {"before": 1_000_000}


def test_an_engine_is_known_by_its_url_and_by_its_dialect() -> None:
    assert of_scheme("postgresql+psycopg") is of_scheme("postgres") is POSTGRES
    assert of_dialect("sqlite") is of_scheme("sqlite") is SQLITE
    assert of_scheme("unheard") is of_dialect("unheard") is None
