"""``python -m seaway.demo.worker relay|case_mgmt|analytics --dir DIR``: one child process.

Owns: making one application of one configuration file and running it until SIGTERM.
Guarantees: ends at once when its standard input closes, that is when the demo is gone, however
it went.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from seaway.app import Seaway
from seaway.config import load_settings
from seaway.demo.folder import Folder
from seaway.demo.services import FIXED, SERVICES, Faults, declare

RELAY = "relay"


def main() -> None:
    """Run the role that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m seaway.demo.worker")
    parser.add_argument("role", choices=(RELAY, *(service.name for service in SERVICES)))
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(arguments.role, Folder(arguments.dir)))


async def work(role: str, folder: Folder) -> None:
    """An ordinary application: settings from a file, handlers declared, run until told to stop."""
    app = Seaway(load_settings(folder.config(role), environ={}), wait=True)
    for service in SERVICES:
        if service.name == role:
            declare(app, service, Faults(role, folder.plan().seed, folder.path / FIXED))
    await app.run(relay=role == RELAY, sweeper=role != RELAY)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def end_with_parent() -> None:
    """End this process at once, whatever it does, when its standard input closes."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    # Not through sys.stdin, whose lock the interpreter would wait for at its end.
    while os.read(0, 64):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
