"""An application has one set of settings: also under ``seaway run``'s root options, and also what
was made of them when its module was imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seaway import RawEvent, Seaway
from seaway.cli.run import load_application
from seaway.cli.session import Flags
from seaway.errors import ConfigError, EventTooLarge
from seaway.outbox.encoding import OutboxRow, ids_of
from seaway.outbox.writing import Destination, register

OTHER = """
database: "postgresql://user@other/db"
database_schema: events
outbox: {notify: true, max_message_bytes: 2KB}
streams: [{name: SEA_EVENTS, max_msg_size: 1KB}, {name: SHOP_EVENTS}]
consumers: [{stream: SEA_EVENTS, durable: case_mgmt__from_sea}]
"""
SERVICE = """
from seaway import Seaway

app = Seaway.from_config({config})
outbox = app.outbox  # As whoever writes events holds it.
engine = app.settings.database
cases = app.consumer("case_mgmt", from_context="sea")
"""
SMALL = RawEvent("sea.event.case_opened.v1", b"{}")


@dataclass
class Handle:
    """A transaction that says where events would go."""

    destination: Destination | None = None


class Adapter:
    def require_transaction(self, handle: Handle) -> None: ...

    def insert(
        self, handle: Handle, rows: Sequence[OutboxRow], destination: Destination
    ) -> list[str]:
        handle.destination = destination
        return ids_of(rows)


register(Handle, Adapter())


def destination_of(app: Any) -> Destination | None:
    handle = Handle()
    app.outbox.add(handle, SMALL)
    return handle.destination


def takes(app: Any, subject: str, size: int) -> bool:
    try:
        app.outbox.add(Handle(), RawEvent(subject, b"x" * size))
    except EventTooLarge:
        return False
    return True


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module ``own_service`` to be written, as ``seaway run`` finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "other.yaml").write_text(OTHER)
    yield tmp_path
    sys.modules.pop("own_service", None)


def loaded(folder: Path, config: str, flags: Flags) -> Any:
    (folder / "own_service.py").write_text(SERVICE.format(config=config))
    load_application("own_service:app", flags)
    return sys.modules["own_service"]


CONSUMER = {"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}
MAPPING = str({"contexts": ["sea"], "consumers": [CONSUMER]})


@pytest.mark.parametrize("config", ['"missing.yaml"', MAPPING, ""])
def test_another_file_reaches_all_that_was_made_of_the_settings(service: Path, config: str) -> None:
    module = loaded(service, config, Flags(Path("other.yaml")))
    assert destination_of(module) == Destination(schema="events", notify=True)
    assert takes(module, "sea.event.case_opened.v1", 500)
    assert not takes(module, "sea.event.case_opened.v1", 1024)
    assert takes(module, "shop.event.sold.v1", 1200)
    assert not takes(module, "shop.event.sold.v1", 2048)
    assert module.engine == "postgresql://user@other/db"
    assert module.cases.stream == "SEA_EVENTS"
    assert module.app.settings.source == "other.yaml"


@pytest.mark.parametrize("config", ['"other.yaml"', MAPPING])
def test_an_option_is_laid_over_the_applications_own_settings(service: Path, config: str) -> None:
    flags = Flags(overrides={"nats": {"url": "nats://there:4222"}})
    module = loaded(service, config, flags)
    assert module.app.settings.nats.url == "nats://there:4222"
    assert "case_mgmt__from_sea" in module.app.consumers
    assert destination_of(module) == (
        Destination() if config == MAPPING else Destination("events", notify=True)
    )


def test_without_options_the_application_is_as_it_is_written(service: Path) -> None:
    module = loaded(service, '"other.yaml"', Flags())
    assert module.app.settings.source == "other.yaml"
    assert destination_of(module) == Destination("events", notify=True)


async def test_a_durable_that_the_other_file_lacks_is_named_with_that_file(service: Path) -> None:
    (service / "less.yaml").write_text("contexts: [sea]\n")
    said = (
        r"case_mgmt__from_sea is not in less\.yaml \(add it under consumers:, where there are now "
        r"none; contexts: makes sea__default besides; `seaway topology plan --app` prints the lines"
    )
    app = loaded(service, '"other.yaml"', Flags(Path("less.yaml"))).app
    with pytest.raises(ConfigError, match=said):
        await app.run()  # and connects to nothing
    # What only publishes has no durable to miss.
    assert app.lacking().mapping["consumers"] == [CONSUMER]


def test_settings_that_options_cannot_reach_are_an_error_with_the_way_out(service: Path) -> None:
    (service / "own_service.py").write_text(
        "from pathlib import Path\n"
        "from seaway import Seaway\n"
        "from seaway.config import load_settings\n"
        'app = Seaway(load_settings(Path("other.yaml")))\n'
    )
    with pytest.raises(ConfigError, match=r"root options cannot.*Seaway\.from_config"):
        load_application("own_service:app", Flags(Path("other.yaml")))
    assert not load_application("own_service:app", Flags()).heeds_root_options


def test_after_the_import_root_options_are_nobodys_any_more(service: Path) -> None:
    loaded(service, '"other.yaml"', Flags(Path("other.yaml")))
    assert Seaway.from_config({"contexts": ["sea"]}).settings.source is None
