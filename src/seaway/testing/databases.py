"""PostgreSQL databases for tests: each of its own, cloned from a template that is made once.

Owns: names, creation and removal. The server is ``SEAWAY_TEST_POSTGRES`` (a URL whose user may
create databases), else an embedded one of the session.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from seaway.embedded.postgres import PostgresServer, find_programs
from seaway.errors import SeawayError
from seaway.stores import schema_script


@dataclass(frozen=True, slots=True)
class Database:
    """One database, asked behind a store's back."""

    url: str
    server: Databases

    def run(self, script: str) -> str:
        """What psql prints for ``script``; see ``Databases.run``."""
        return self.server.run(script, urlsplit(self.url).path.lstrip("/"))

    def url_of(self, user: str) -> str:
        """Its URL for another user, who needs no password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


class Databases:
    """Databases on the server at ``url``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._template: str | None = None
        self._left: list[str] = []

    def url(self, database: str) -> str:
        """The URL of ``database`` on this server."""
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    def create(self, *, tables: bool = True) -> str:
        """The name of a fresh database, with Seaway's tables unless told otherwise."""
        return self._create(self._with_tables() if tables else "template0")

    def drop(self, database: str) -> None:
        """Remove it, whoever is connected."""
        self.run(_drop(database))

    def leave(self, database: str) -> None:
        """As ``drop``, together with the next ``create`` or at the end: one psql does both."""
        self._left.append(database)

    def close(self) -> None:
        """Remove the template, and what was left. Idempotent."""
        if self._template is not None:
            self._left.append(self._template)
            self._template = None
        if self._left:
            self.run(self._drops())

    def run(self, script: str, database: str | None = None) -> str:
        """What psql prints for ``script``, unaligned; ``SeawayError`` with its words otherwise."""
        parts = urlsplit(self._url if database is None else self.url(database))
        user = parts.netloc.rpartition("@")[0].partition(":")[0]
        host = parts.netloc.rpartition("@")[2]
        # Whoever lists the machine's processes sees their arguments: no password there.
        url = urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))
        done = subprocess.run(
            [str(self._psql), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url],
            env=os.environ | {"PGPASSWORD": unquote(parts.password or "")},
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SeawayError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    @cached_property
    def _psql(self) -> Path:
        return find_programs() / "psql"

    def _create(self, template: str) -> str:
        name = f"seaway_test_{uuid.uuid4().hex[:12]}"
        self.run(f'{self._drops()}CREATE DATABASE "{name}" TEMPLATE "{template}";')
        return name

    def _drops(self) -> str:
        """The script that removes what was left."""
        left, self._left = self._left, []
        return "".join(map(_drop, left))

    def _with_tables(self) -> str:
        if self._template is None:
            template = self._create("template0")
            self.run(schema_script(self.url(template)), template)
            self._template = template
        return self._template


def _drop(database: str) -> str:
    return f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE);\n'


@contextmanager
def databases() -> Iterator[Databases]:
    """The databases of ``SEAWAY_TEST_POSTGRES``, or of a server that ends with the block."""
    if given := os.environ.get("SEAWAY_TEST_POSTGRES"):
        opened = Databases(given)
        try:
            yield opened
        finally:
            opened.close()
        return
    # Nobody looks at these databases after a power cut: nothing waits for the disk. Whoever was
    # cancelled while it logged in holds up DROP DATABASE for as long as it may take to do that.
    settings = {"max_connections": "200", "fsync": "off", "authentication_timeout": "15s"}
    server = PostgresServer(settings=settings, trust_roles=True)
    try:
        server.launch()
        yield Databases(server.url())
    finally:
        server.terminate()
        server.remove()
