"""What the page on rights prints is what the command prints for the page's file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seaway.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "permissions.md").read_text()
SHOWN = re.findall(r"^```console\n\$ seaway ([^\n]*)\n(.*?)^```", PAGE, flags=re.S | re.M)


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_page_shows_what_the_command_prints(
    command: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.S | re.M)
    (tmp_path / "seaway.yaml").write_text(file)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert done.stdout == printed


def test_every_role_is_on_the_page() -> None:
    assert {command.split()[1] for command, _ in SHOWN} == {
        *("relay", "consumer", "sweeper", "operator", "watcher", "topology")
    }
