"""A child of the supervisor: ``python -m seaway.proof.child MODULE ARGUMENTS``.

Runs a module as ``python -m MODULE`` does; or, given ``MODULE:FUNCTION CONFIG JSON``, a consuming
service: an application of that configuration, to which ``FUNCTION(app, **JSON)`` ties handlers.
Guarantees: the child ends at once, whatever it does, when its standard input closes, that is when
its supervisor is gone, however it went.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pkgutil
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from seaway.app import Seaway
from seaway.config import load_settings
from seaway.parts import loop_factory


def service(declare: Callable[..., None], config: Path, **told: object) -> Sequence[str]:
    """The arguments of a consuming service; ``told`` (JSON) is what ``declare`` gets with the
    application."""
    return [f"{declare.__module__}:{declare.__qualname__}", str(config), json.dumps(told)]


def main() -> None:
    """Run what the arguments name, until SIGTERM or its end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    target = sys.argv[0]
    if ":" in target:
        _serve(pkgutil.resolve_name(target), Path(sys.argv[1]), json.loads(sys.argv[2]))
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)


def _serve(declare: Callable[..., None], config: Path, told: dict[str, object]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    app = Seaway(load_settings(config, environ={}), wait=True)
    declare(app, **told)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.run(relay=False))


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock the interpreter would wait for at its end.
    while os.read(0, 64):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
