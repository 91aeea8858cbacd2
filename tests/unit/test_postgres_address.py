"""PostgreSQL URLs: what they mean, what they may not say, and what is never printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seaway.errors import ConfigError
from seaway.stores.postgres.address import parse, password_for

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
        ("postgresql://a:1,b:2/db", {"host": ["a", "b"], "port": [1, 2]}),
        ("postgresql://u:p@a,[::1]:2/db", {"host": ["a", "::1"], "port": [5432, 2], "user": "u"}),
        ("postgresql://u:p@ss@a/db", {"user": "u", "password": "p@ss", "host": "a"}),
        (
            "postgresql://host/db?sslmode=verify-full&sslrootcert=%2Fdev%2F..%2Fetc/passwd",
            {"ssl": "verify-full", "dsn": "postgresql:///?sslrootcert=%2Fdev%2F..%2Fetc%2Fpasswd"},
        ),
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
        ("postgresql://a:1,b:x/db", "cannot be read"),
        ("postgresql://a:1,/db", "empty host"),
        ("postgresql://a/db?sslrootcert=/nowhere.pem", "sslrootcert: /nowhere.pem is not a file"),
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


def lines(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    file = tmp_path / "pass"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("host:5432:db:me:secret", "secret"),
        ("*:*:*:*:secret", "secret"),
        (r"host:5432:db:me:a\:b\\c", r"a:b\c"),
        ("host:5432:db:me:a:b", "a:b"),
        ("# a comment\n\nother:*:*:*:no\nhost:*:*:me:yes\n*:*:*:*:late", "yes"),
        (r"h\:ost:*:*:*:no", None),
        ("host:5432:db:me", None),
        ("", None),
    ],
)
def test_the_password_file_is_read_as_libpq_does(
    tmp_path: Path, text: str, password: str | None
) -> None:
    environ = {"PGPASSFILE": lines(tmp_path, text)}
    assert password_for(parse("postgresql://me@host/db"), environ) == password


def test_a_password_file_is_found_and_left_alone_as_libpq_does(tmp_path: Path) -> None:
    address = parse("postgresql://me@one:1,two:2/db")
    assert password_for(address, {"PGPASSFILE": lines(tmp_path, "two:2:db:me:x")}) == "x"
    assert password_for(address, {"PGPASSFILE": lines(tmp_path, "two:1:db:me:x")}) is None
    assert password_for(address, {"PGPASSFILE": lines(tmp_path, "*:*:*:*:x", 0o644)}) is None
    assert password_for(address, {"PGPASSFILE": str(tmp_path / "none")}) is None
    (tmp_path / ".pgpass").write_text("*:*:*:*:home")
    (tmp_path / ".pgpass").chmod(0o600)
    assert password_for(address, {"HOME": str(tmp_path)}) == "home"
    assert password_for(address, {"HOME": str(tmp_path), "PGPASSWORD": "env"}) is None
    file = lines(tmp_path, "localhost:*:*:u:x")
    named = parse(f"postgresql:///db?host=/run&user=u&passfile={file}")
    assert password_for(named, {"HOME": str(tmp_path)}) == "x"
