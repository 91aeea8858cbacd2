"""PostgreSQL as a store: any number of processes on any number of machines."""

from seaway.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
