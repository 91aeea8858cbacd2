"""The list of commands, which is printed without importing them."""

from __future__ import annotations

import subprocess
import sys

from typer.main import get_command

from seaway.cli import Command, app


def test_the_list_says_what_each_command_says_of_itself() -> None:
    commands = getattr(get_command(app), "commands", {})
    assert commands
    for name, command in commands.items():
        assert isinstance(command, Command)
        said = " ".join(command.real.help.partition("\n\n")[0].split())
        assert command.short_help == said, name


def test_version_and_help_load_no_engine() -> None:
    code = (
        "import sys\n"
        "from seaway.cli import app\n"
        "for words in (['--version'], ['--help']):\n"
        "    try:\n"
        "        app(words)\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "print([one for one in ('asyncio', 'nats', 'pydantic', 'yaml', 'seaway.app') "
        "if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
