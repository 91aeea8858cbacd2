"""The demo's folder: everything that a run needs to go on after it was killed.

Owns: the files' names, and the plan that is kept there. Guarantees: one demo at a time works in a
folder; a folder that is not a demo's is never touched.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from seaway.demo.log import Columns
from seaway.demo.plan import Plan
from seaway.errors import ConfigError

SERVICE = "service"
"""The writing service: its database holds the outbox, its configuration is also the relay's."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths in ``path``, which exists once ``claim`` was entered."""

    path: Path

    @property
    def streams(self) -> Path:
        """The nats-server's store."""
        return self.path / "nats"

    def database(self, name: str) -> Path:
        """``service``, or a consuming service's name."""
        return self.path / f"{name}.db"

    def url(self, name: str) -> str:
        """The same database, as a configuration has it."""
        return f"sqlite:///{self.database(name)}"

    def config(self, name: str) -> Path:
        """The ``seaway.yaml`` of the writing service (also the relay's) or a consuming one."""
        return self.path / f"{name}.yaml"

    @property
    def _plan(self) -> Path:
        return self.path / "demo.json"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder and hold it; ``ConfigError`` where it is another's or in use."""
        if self.path.exists():
            if not self.path.is_dir():
                raise ConfigError(f"{self.path} is not a folder")
            if any(self.path.iterdir()) and not (self.path / "demo.lock").exists():
                raise ConfigError(
                    f"{self.path} is not empty and not a demo's folder", hint="name another"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "demo.lock").open("a")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be used: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"another demo is running in {self.path}") from error
            yield

    def saved_plan(self) -> Plan | None:
        """The plan of the run that was begun here, if one was."""
        try:
            saved = json.loads(self._plan.read_text())
            columns = Columns(*saved.get("columns", ()))
            return Plan(**{"layout": 1, **saved, "columns": columns})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self._plan} cannot be read: {error}") from error

    def keep(self, plan: Plan) -> None:
        """Write the plan; ``ConfigError`` where the folder holds a run of another one."""
        saved = self.saved_plan()
        if saved is None:
            draft = self._plan.with_suffix(".new")
            draft.write_text(json.dumps(asdict(plan), indent=2))
            draft.replace(self._plan)
        elif saved != plan:
            kept, wanted = asdict(saved), asdict(plan)
            name = next(name for name in kept if kept[name] != wanted[name])
            raise ConfigError(
                f"{self.path} holds a demo with {name} {kept[name]}, not {wanted[name]}",
                hint="leave the option out to go on with it, or name another --dir",
            )
