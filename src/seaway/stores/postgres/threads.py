"""The store's transactions for plain handlers: psycopg's synchronous connections to its database,
one for each thread."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg

from seaway.databases.queries import SAVE
from seaway.drivers.keeping import Kept
from seaway.drivers.psycopg import MEANS
from seaway.drivers.psycopg_threads import PsycopgThreadSession, PsycopgThreadSessions
from seaway.stores.postgres.address import Address, libpq_options
from seaway.stores.postgres.begins import WRITES


class StoreThreadSession(PsycopgThreadSession):
    """See ``protocols.ThreadSession``. On a connection in autocommit mode."""

    async def begin(self) -> None:
        """See ``protocols.Session``. Whatever a role has by default: it writes."""
        try:
            self._run(f"{WRITES}; {SAVE}")
        except psycopg.errors.FeatureNotSupported as error:
            # READ WRITE, on a standby: what it says of a statement that writes heals, too.
            raise psycopg.errors.ReadOnlySqlTransaction(str(error)) from error


class StoreThreadSessions(PsycopgThreadSessions):
    """See ``protocols.ThreadSessions``. Closed, its threads' connections are."""

    session = StoreThreadSession

    def __init__(self, address: Address) -> None:
        super().__init__(MEANS, Kept(partial(_connect, address)))
        self.shown = address.shown


def _connect(address: Address) -> psycopg.Connection[Any]:
    options = libpq_options(address)
    if address.pgbouncer:
        options["prepare_threshold"] = None  # The next statement may reach another session.
    return psycopg.connect(autocommit=True, **options)
