"""PostgreSQL as a store: any number of processes on any number of machines."""

from seaway.stores.postgres.store import PostgresStore

Store = PostgresStore

__all__ = ["PostgresStore", "Store"]
