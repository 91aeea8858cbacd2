"""``seaway run --dev``: from one file to a handled event, again, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from seaway import Seaway
from seaway.brokers import jetstream
from seaway.cli.development import bring_up
from seaway.config import NatsSettings, load_settings
from seaway.embedded.nats_server import NatsServer, development_server
from seaway.embedded.process import free_port, reachable
from seaway.errors import ConfigError
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop.py"
RUN = (*SEAWAY, "run", "shop:app", "--dev")
LEGACY: dict[str, object] = {"name": "LEGACY", "subjects": ["shop.event.order_placed.>"]}


def folder(path: Path, port: int | None = None) -> Shell:
    """One file, and a port of one's own."""
    path.mkdir(exist_ok=True)
    shutil.copy(SHOP, path / "shop.py")
    return Shell(path, f"nats://127.0.0.1:{port or free_port()}")


def installed(shell: Shell, site: Path) -> None:
    """Have the shell use what a wheel brings, and nothing of the repository."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    [wheel] = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    shell.environment["PYTHONPATH"] = str(site)
    found = shell.run(sys.executable, "-c", "import seaway; print(seaway.__file__)")
    assert found.startswith(str(site))
    package = ROOT / "src" / "seaway"
    kept = {str(one.relative_to(package)) for one in package.rglob("*.*")}
    brought = {str(one.relative_to(site / "seaway")) for one in (site / "seaway").rglob("*.*")}
    assert {one for one in kept if not one.endswith((".pyc", ".pyo"))} == brought


def place(shell: Shell, order: str, item: str) -> None:
    shell.run(sys.executable, "shop.py", order, item)


@contextmanager
def running(shell: Shell) -> Iterator[None]:
    (shell.folder / "run.log").unlink(missing_ok=True)
    with shell.running(*RUN):
        shell.until(lambda: "seaway: started:" in shell.said(), "it runs")
        yield
    assert "Traceback" not in shell.said()


def handled(shell: Shell, order: str) -> None:
    shell.until(lambda: f"packed {order}:" in shell.said(), f"{order} is handled")


def test_one_file_and_one_command_until_a_file_is_wanted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shell = folder(tmp_path)
    installed(shell, tmp_path_factory.mktemp("site"))
    port = int(shell.environment["NATS_URL"].rpartition(":")[2])
    # Without --dev nothing is made.
    said = shell.ended(*RUN[:-1], code=2).stderr
    assert "shipping__from_shop is not in the configuration" in said
    assert "--dev" in said
    assert {one.name for one in tmp_path.iterdir()} <= {"shop.py", "__pycache__"}

    with running(shell):
        for line in (
            f"server     nats://127.0.0.1:{port}, started; .seaway keeps its streams\n",
            "streams    SHOP_EVENTS made\n",
            "durables   shipping__from_shop made\n",
            "database   sqlite:///seaway.db, tables made\n",
        ):
            assert line in shell.said()
        place(shell, "order-1", "blue mug")
        handled(shell, "order-1")
        place(shell, "order-2", "")
        # What looks needs no file, and not even the port.
        del shell.environment["NATS_URL"]
        shell.until(lambda: len(shell.json("dlq", "ls")) == 1, "a dead letter")
        assert "as the file says" in shell.seaway("topology", "plan")
        shell.environment["NATS_URL"] = f"nats://127.0.0.1:{port}"
    assert not reachable(port)

    # The second start has all that the first one had; what was written meanwhile is handled.
    place(shell, "order-3", "red mug")
    with running(shell):
        handled(shell, "order-3")
        assert "keeps its streams, as they were\n" in shell.said()
        assert "durables   shipping__from_shop there\n" in shell.said()
        assert "packed order-1" not in shell.said()
        assert len(shell.json("dlq", "ls")) == 1

        # What the code names, as the lines of a file; with them it is whole.
        plan = (*SEAWAY, "topology", "plan", "--app", "shop:app")
        lacking = shell.ended(*plan, code=1)
        assert "seaway init" in lacking.stderr
        assert json.loads(shell.ended(*plan, "--json", code=1).stdout)["lacking"] == {
            "streams": [{"name": "SHOP_EVENTS"}],
            "consumers": [{"stream": "SHOP_EVENTS", "durable": "shipping__from_shop"}],
        }
        (tmp_path / "seaway.yaml").write_text(lacking.stdout)
        assert "The server is as the file says." in shell.ended(*plan).stdout


def test_a_file_is_heeded_and_changes_nothing_that_another_made(tmp_path: Path) -> None:
    one, port = folder(tmp_path / "one"), free_port()
    one.environment["NATS_URL"] = f"nats://127.0.0.1:{port}"
    (one.folder / "seaway.yaml").write_text(
        "streams: [{name: SHOP_EVENTS, max_age: 1d, replicas: 3}]\n"  # production's replicas
    )
    two = folder(tmp_path / "two", port)
    with running(one):
        # Another folder shares the server, and leaves the stream as the file of the first has it.
        with running(two):
            assert "running already; it ends with who started it\n" in two.said()
            assert "streams    SHOP_EVENTS there\n" in two.said()
            kept = load_settings(two.folder / ".seaway" / "seaway.yaml", environ={})
            assert [one.durable for one in kept.consumers] == ["shipping__from_shop"]
        info = one.json("stream", "info", "SHOP_EVENTS")
        assert info["config"]["max_age"] == 86_400 * 10**9
        # One folder is one server's.
        one.environment["NATS_URL"] = f"nats://127.0.0.1:{free_port()}"
        said = one.ended(*RUN, code=2).stderr
        assert "another --dev runs in .seaway, on another port" in said
        assert "Traceback" not in said
        one.environment["NATS_URL"] = f"nats://127.0.0.1:{port}"
    (one.folder / "seaway.yaml").write_text("streams: [{name: SHOP_EVENTS, max_age: 2d}]\n")
    with running(one):
        assert "changed    stream SHOP_EVENTS: as seaway.yaml says\n" in one.said()
    (one.folder / "seaway.yaml").write_text("streams: [{name: SHOP_EVENTS, storage: memory}]\n")
    assert "--allow-data-loss" in one.ended(*RUN, code=2).stderr


async def test_another_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = folder(tmp_path)
    async with NatsServer() as theirs:
        shell.environment["NATS_URL"] = theirs.url
        said = shell.ended(*RUN, code=2).stderr
        assert f"the server {theirs.url} runs already and is another one" in said
        assert "nothing is made there" in said
        assert "seaway topology apply, seaway db upgrade" in said  # the way, where it is wanted
        assert await streams_of(theirs) == []
    assert {one.name for one in tmp_path.iterdir()} <= {"shop.py", "__pycache__"}

    monkeypatch.chdir(tmp_path)
    # One that may be shared, but holds the subjects in another stream.
    async with development_server(None, None) as shared:
        await streams_of(shared, LEGACY)
        with pytest.raises(ConfigError, match=r"has the stream LEGACY.*nothing is changed"):
            await brought_up(nats={"url": shared.url})
        assert await streams_of(shared) == ["LEGACY"]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("nats://nats.example.com:4222", "nats.example.com:4222 is not one that --dev starts"),
        ("tls://127.0.0.1:4222", "is not one that --dev starts"),
        ("nats://127.0.0.1:4222,nats://127.0.0.1:4223", "one server on this machine"),
        (None, "is no nats-server"),
    ],
)
async def test_what_is_no_server_of_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = server or f"nats://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=said):
            await brought_up(nats={"url": url})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://u:secret@db.example.com/prod",
        "postgresql://u:secret@127.0.0.1,10.0.0.7/prod",
        "postgresql:///prod?host=db.example.com",
    ],
)
async def test_the_outbox_of_another_machine_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"on another machine, (db\.example\.com|10\.0\.0\.7)"
    ) as told:
        await brought_up(database=database)
    assert "secret" not in str(told.value)
    assert not [*tmp_path.iterdir()]


async def brought_up(**settings: object) -> None:
    async with AsyncExitStack() as stack:
        await bring_up(Seaway.from_config({"contexts": ["shop"], **settings}), stack)


async def streams_of(server: NatsServer, *made: dict[str, object]) -> list[str]:
    """The server's streams, with those that are to be ``made``."""
    broker = await jetstream.connect(NatsSettings(url=server.url))
    try:
        for one in made:
            await broker.admin.create_stream(one)
        return [info.name for info in await broker.admin.streams()]
    finally:
        await broker.close()
