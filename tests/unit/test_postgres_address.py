"""PostgreSQL URLs: what they mean, what they may not say, and what is never printed."""

from __future__ import annotations

from typing import Any

import pytest

from seaway.errors import ConfigError
from seaway.stores.postgres.address import parse

NAMED = {"server_settings": {"application_name": "seaway"}}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://", {}),
        ("postgres://host/db", {"host": "host", "database": "db"}),
        ("postgresql+psycopg://u@host:5433/db", {"host": "host", "port": 5433, "user": "u"}),
        ("postgresql://u:p%40ss%2F@host/d%20b", {"user": "u", "password": "p@ss/"}),
        ("postgresql://[::1]:5432/db", {"host": "::1", "port": 5432}),
        ("postgresql:///db?host=%2Frun%2Fpostgresql", {"host": "/run/postgresql"}),
        ("postgresql://host/db?sslmode=verify-full", {"ssl": "verify-full"}),
        ("postgresql://host/db?connect_timeout=2.5", {"timeout": 2.5}),
        ("postgresql://host/db?user=u&password=p", {"user": "u", "password": "p"}),
        ("postgresql://host/?target_session_attrs=primary", {"target_session_attrs": "primary"}),
    ],
)
def test_what_a_url_means(url: str, options: dict[str, Any]) -> None:
    found = parse(url).options
    assert {name: found[name] for name in options} == options
    assert found["server_settings"] == NAMED["server_settings"]
    assert "database" not in parse("postgresql://host/").options


def test_what_it_leaves_out_is_left_to_libpqs_variables() -> None:
    assert parse("postgresql://").options == NAMED


def test_names_of_its_own() -> None:
    found = parse("postgresql://host/db?application_name=billing").options
    assert found["server_settings"] == {"application_name": "billing"}
    assert parse("postgresql://host/db?pgbouncer=TRUE").pgbouncer
    assert not parse("postgresql://host/db?pgbouncer=0").pgbouncer
    assert not parse("postgresql://host/db").pgbouncer


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://host:port/db", "cannot be read"),
        ("postgresql://[::1/db", "cannot be read"),
        ("postgresql://host/a/b", "no single database"),
        ("postgresql://host/db?pool_size=5", "unknown option 'pool_size'"),
        ("postgresql://host/db?pgbouncer=maybe", "pgbouncer='maybe'"),
        ("postgresql://host/db?connect_timeout=soon", "connect_timeout='soon'"),
        ("postgresql://host/db?connect_timeout=0", "a number of seconds"),
    ],
)
def test_what_a_url_may_not_say(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url.replace("//", "//me:hidden@"))
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_no_password_is_shown() -> None:
    address = parse("postgresql://me:hidden@host:5433/db?password=hidden")
    assert "hidden" not in f"{address} {address!r} {address.shown}"
    assert address.shown == "postgresql://host:5433/db"
