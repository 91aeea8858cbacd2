"""The pages for kinds of service show what the examples have, which are run as they stand."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from seaway import Seaway
from shell import Shell

if TYPE_CHECKING:
    from seaway.embedded.nats_server import NatsServer

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "how-to"
EXAMPLES = "\n".join(file.read_text() for file in (ROOT / "examples").rglob("*.py"))


def python(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", ["fastapi.md", "flask.md", "django.md", "scripts.md"])
def test_a_page_shows_what_runs(page: str) -> None:
    assert python(page)
    for block in python(page):
        assert block in EXAMPLES


@pytest.mark.server
async def test_a_lifespan_of_ones_own_enters_seaways(
    tmp_path: Path, nats_server_own: NatsServer
) -> None:
    """The page's block, with an engine that says when it is disposed of."""
    url = nats_server_own.url
    (tmp_path / "seaway.yaml").write_text("contexts: [shop]\nprofiles: {one: {replicas: 1}}\n")
    shell = Shell(tmp_path, url)
    shell.seaway("--profile", "one", "topology", "apply")
    shell.seaway("db", "upgrade")
    seen: list[str] = []

    class Engine:
        def dispose(self) -> None:
            at_work = [task for task in asyncio.all_tasks() if task.get_name() == "seaway"]
            seen.append("disposed while Seaway runs" if at_work else "disposed")

    database = f"sqlite:///{tmp_path / 'seaway.db'}"
    app = Seaway.from_config({"contexts": ["shop"], "database": database, "nats": {"url": url}})
    names: dict[str, Any] = dict(vars(__import__("contextlib")), **globals())
    names |= {"app": app, "engine": Engine()}
    (block,) = (one for one in python("fastapi.md") if "async def lifespan(api: FastAPI)" in one)
    exec(compile(block, "fastapi.md", "exec"), names)
    api = names["api"]
    assert isinstance(api, FastAPI)
    async with api.router.lifespan_context(api) as state:
        assert state is not None
        assert state["seaway"] is app
        assert app.broker
        assert [task for task in asyncio.all_tasks() if task.get_name() == "seaway"]
        seen.append("served")
    assert seen == ["served", "disposed"]

    async def fails() -> None:
        async with api.router.lifespan_context(api):
            raise LookupError("while it serves")

    with pytest.raises(LookupError, match="while it serves"):
        await fails()
    assert seen == ["served", "disposed", "disposed"]
