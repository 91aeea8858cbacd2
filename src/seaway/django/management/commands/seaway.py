"""``manage.py seaway ...``: the one command line, configured by ``settings.SEAWAY``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from seaway.cli import main
from seaway.cli.session import Project
from seaway.django.configuration import SHOWN, mapping
from seaway.django.project import PLACE

PROJECT = Project(mapping, SHOWN, PLACE)


class Command(BaseCommand):
    """Hands its arguments over as they are: options, output and exit codes are those of
    ``seaway``."""

    help = "Run a command of Seaway: run, relay, check, dlq, outbox, topology, db and the others."
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """For ``call_command``, which parses: no option is Django's, all is handed on."""
        parser = CommandParser(add_help=False, prefix_chars="\0", **kwargs)
        parser.add_argument("arguments", nargs="*")
        parser.set_defaults(force_color=False, no_color=False)
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """From a shell: ``--settings`` and ``--pythonpath`` are Django's, all else is ours."""
        djangos = CommandParser(add_help=False, allow_abbrev=False)
        djangos.add_argument("--settings")
        djangos.add_argument("--pythonpath")
        _, arguments = djangos.parse_known_args(argv[2:])
        main(arguments, name=f"{Path(argv[0]).name} {argv[1]}", project=PROJECT)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """``manage.py help seaway``."""
        main(["--help"], name=f"{Path(prog_name).name} {subcommand}", project=PROJECT)

    def handle(self, *_: Any, arguments: list[str], **__: Any) -> None:
        """From code: ``call_command("seaway", "topology", "apply")``."""
        try:
            main(arguments, name="manage.py seaway", project=PROJECT)
        except SystemExit as end:
            if end.code:
                shown = " ".join(arguments)
                code = end.code if isinstance(end.code, int) else 1
                raise CommandError(f"seaway {shown} ended with {code}", returncode=code) from end
