"""SQLite as a store: one file, any number of processes on one machine."""

from seaway.stores.sqlite.store import SqliteStore

Store = SqliteStore

__all__ = ["SqliteStore", "Store"]
