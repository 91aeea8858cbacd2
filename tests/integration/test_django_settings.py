"""``settings.SEAWAY``: what it means, and what is said where it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.transaction import atomic
from django.test.utils import override_settings

from drivers.framework import database
from seaway.django import application, outbox
from seaway.django.checks import settings_are_right
from seaway.django.configuration import configured, url_of
from seaway.errors import ConfigError
from seaway.events import RawEvent
from seaway.stores.postgres.address import parse

EVENT = RawEvent("sea.event.case_created.v1", b"{}")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Any]:
    with database(f"sqlite:///{tmp_path / 'app one.db'}") as opened:
        yield opened


def postgres(**said: Any) -> dict[str, Any]:
    blank = dict.fromkeys(("NAME", "HOST", "PORT", "USER", "PASSWORD"), "")
    return {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}} | blank | said


@pytest.fixture
def declared(connection: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the default database one of PostgreSQL's, without any server."""

    def declare(**said: Any) -> str:
        monkeypatch.setattr(type(connection), "vendor", "postgresql")
        monkeypatch.setattr(connection, "settings_dict", postgres(**said))
        return url_of("default")

    return declare


def test_the_database_is_djangos_own(connection: Any, tmp_path: Path) -> None:
    with override_settings(SEAWAY={"contexts": ["sea"], "outbox": {"batch": 7}}):
        found = configured()
    assert found.database == f"sqlite:///{tmp_path}/app%20one.db"
    assert (found.outbox.batch, found.contexts, found.name) == (7, ("sea",), "settings.SEAWAY")
    with override_settings(SEAWAY={"database": "postgresql://db/one"}):
        assert configured().database == "postgresql://db/one"
    with (
        database("sqlite:///other.db", "other"),
        override_settings(SEAWAY={"using": "other"}),
    ):
        assert configured().database == f"sqlite:///{Path.cwd()}/other.db"


def test_a_server_is_said_as_django_has_it(declared: Any) -> None:
    found = parse(declared(NAME="shop", HOST="db", PORT="5433", USER="ann", PASSWORD="p@ss:/w"))
    expected = {"host": "db", "port": 5433, "user": "ann", "password": "p@ss:/w"}
    assert {name: found.options[name] for name in expected} == expected
    assert parse(declared(NAME="shop", HOST="/run/postgresql")).options["host"] == "/run/postgresql"
    found = parse(declared(NAME="shop", HOST="one,two", PORT="1,2", OPTIONS={"pool": True}))
    assert (found.options["host"], found.options["port"]) == (["one", "two"], [1, 2])
    found = parse(declared(NAME="shop", HOST="db", OPTIONS={"sslmode": "require"}))
    assert (found.options["ssl"], found.options["database"]) == ("require", "shop")
    with pytest.raises(ConfigError, match=r"OPTIONS\['service'\].*SEAWAY = {'database'"):
        declared(OPTIONS={"service": "shop"})


WRONG: list[tuple[Any, str]] = [
    ({"contxts": ["sea"]}, r"settings.SEAWAY: contxts: unknown key.*did you mean contexts"),
    ({"streams": [{"name": "SEA_EVENTS", "max_age": "x"}]}, r"SEAWAY: streams\[0\].max_age: "),
    ({"using": "reports"}, r"DATABASES has no 'reports' \(it has default"),
    ({"schema": "events"}, r"has 'schema' \(.*database_schema"),
    ("seaway.yaml", r"is str, not a mapping"),
]


@pytest.mark.parametrize(("said", "message"), WRONG)
def test_what_is_wrong_is_named(connection: Any, said: Any, message: str) -> None:
    with override_settings(SEAWAY=said):
        with atomic(), pytest.raises(ConfigError, match=message):
            outbox.add(EVENT)
        (found,) = settings_are_right(None)
    assert found.id == "seaway.E001"
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(found.msg)


def test_a_project_that_leaves_them_out_is_right(connection: Any) -> None:
    assert settings_are_right(None) == []


def test_an_engine_without_a_store_is_named(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(connection), "vendor", "oracle")
    with pytest.raises(ConfigError, match=r"default is oracle.*'using'"):
        url_of("default")


def test_writing_works_in_memory_and_a_relay_says_why_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        database("sqlite:///:memory:"),
        override_settings(SEAWAY={"contexts": ["sea"]}),
    ):
        call_command("migrate", verbosity=0, stdout=StringIO())
        with atomic():
            assert len(outbox.add(EVENT)) == 1
        with pytest.raises(CommandError, match="seaway outbox status ended with 2"):
            call_command("seaway", "outbox", "status")
    assert ":memory: cannot be shared" in capsys.readouterr().err


def test_the_command_line_stands_on_the_settings(
    connection: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(SEAWAY={"contexts": ["sea"]}):
        call_command("seaway", "db", "upgrade")
        with atomic():
            outbox.add(EVENT)
        capsys.readouterr()
        call_command("seaway", "outbox", "status", "--json")
        assert '"count": 1' in capsys.readouterr().out
        with pytest.raises(CommandError, match="ended with 2"):
            call_command("seaway", "outbox", "stratus")
    assert "default" in connections


def test_an_application_that_was_made_too_early_heeds_no_option(
    connection: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(SEAWAY={"contexts": ["sea"]}):
        application.cache_clear()
        application()
        with pytest.raises(CommandError, match="ended with 2"):
            call_command("seaway", "--server", "nats://127.0.0.1:1", "run")
        application.cache_clear()
    assert "made before the command's root options were read" in capsys.readouterr().err
