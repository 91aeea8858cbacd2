"""The examples of writing events run, and the page about them shows what runs."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from seaway.stores import schema_script

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "writing"
PAGES = ROOT / "docs" / "how-to"
LOOK = "SELECT ordering_key, subject FROM seaway_outbox"
EXPECTED = [("case-1", "sea.event.case_opened.v1")]


def run(example: str, argument: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example), argument],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "SEAWAY_CONFIG": str(ROOT / "examples" / "seaway.yaml"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("example", "scheme"),
    [
        ("with_asyncpg.py", "postgresql"),
        ("with_psycopg.py", "postgresql"),
        ("with_psycopg_async.py", "postgresql"),
        ("with_sqlalchemy.py", "postgresql+psycopg"),
        ("with_sqlalchemy_async.py", "postgresql+asyncpg"),
    ],
)
def test_an_example_writes_to_postgresql(example: str, scheme: str, postgres_url: str) -> None:
    run(example, postgres_url.replace("postgresql", scheme, 1))
    with psycopg.connect(postgres_url) as db:
        assert db.execute(LOOK).fetchall() == EXPECTED
        assert db.execute("SELECT id FROM cases").fetchall() == [("case-1",)]


@pytest.mark.parametrize(
    ("example", "scheme"),
    [
        ("with_sqlite.py", ""),
        ("with_aiosqlite.py", ""),
        ("with_django.py", ""),
        ("with_sqlalchemy.py", "sqlite:///"),
        ("with_sqlalchemy_async.py", "sqlite+aiosqlite:///"),
    ],
)
def test_an_example_writes_to_sqlite(example: str, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.db"
    if example != "with_django.py":
        with closing(sqlite3.connect(path)) as db:
            db.executescript(schema_script("sqlite:///cases.db"))
    run(example, f"{scheme}{path}")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(LOOK).fetchall() == EXPECTED
        assert db.execute("SELECT id FROM cases").fetchall() == [("case-1",)]


def test_the_page_shows_what_runs() -> None:
    written = "\n".join(file.read_text() for file in EXAMPLES.glob("*.py"))
    blocks = _python("write-events.md")
    assert len(blocks) >= 8
    for block in blocks:
        assert block in written


def test_alembics_page_shows_what_runs() -> None:
    """Its first block needs Alembic's ``env.py`` around it, which is given here."""

    class Context:
        configured: dict[str, object]

        @classmethod
        def configure(cls, **options: object) -> None:
            cls.configured = options

    names: dict[str, object] = {"context": Context, "connection": 1, "target_metadata": 2}
    configure, hook, query = _python("alembic.md")
    for block in (configure, hook, query):
        exec(compile(block, "alembic.md", "exec"), names)
    include = names["include"]
    assert callable(include)
    assert [
        include(None, name, "table", True, None) for name in ("seaway_outbox", "legacy", "cases")
    ] == [False, False, True]
    assert Context.configured["include_object"] is names["include_object"]
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        connection.connection.executescript(schema_script("sqlite:///x.db"))
        assert connection.execute(names["statement"]).one() == (0, None)  # type: ignore[call-overload]
    engine.dispose()


def _python(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), flags=re.S | re.M)
