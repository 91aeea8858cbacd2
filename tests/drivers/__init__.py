"""Every kind of handle that ``Outbox.add`` takes, behind one small face for one suite."""

from drivers.base import Driver
from drivers.framework import DJANGO
from drivers.plain import ASYNCPG, PSYCOPG, SQLITE
from drivers.toolkit import SQLALCHEMY

__all__ = ["DRIVERS", "Driver"]

DRIVERS: tuple[type[Driver], ...] = (*ASYNCPG, *PSYCOPG, *SQLITE, *SQLALCHEMY, *DJANGO)
