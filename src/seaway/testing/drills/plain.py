"""Plain handlers of the drilled service, by what they work with: one function for each.

Owns: how such a consumer gets its transactions from the database at a URL, and takes effect in one.
Guarantees: the same row of ``effects`` as ``ledger.take_effect`` writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from seaway.consumer import Delivery

TakeEffect: TypeAlias = Callable[[Delivery, int], None]
Plain: TypeAlias = Callable[[str], tuple[object, TakeEffect]]
"""What ``tx=`` is on the database at that URL, and how a handler takes effect there."""


def django(url: str) -> tuple[object, TakeEffect]:
    """Django's ORM, in a process that has no other settings."""
    import django
    from django.conf import settings
    from django.db import models

    from seaway.drivers.django_threads import Django

    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "PASSWORD": parts.password or "",
    }
    settings.configure(INSTALLED_APPS=["seaway.django"], DATABASES={"default": database})
    django.setup()

    class Effect(models.Model):
        seq: Any = models.BigAutoField(primary_key=True)
        consumer: Any = models.TextField()
        event_id: Any = models.TextField()
        number: Any = models.BigIntegerField()
        redriven: Any = models.IntegerField()
        note: Any = models.TextField()
        handled_at: Any = models.FloatField()

        class Meta:
            app_label, db_table, managed = "drill", "effects", False

    def take_effect(delivery: Delivery, number: int) -> None:
        Effect.objects.create(**_effect(delivery, number))

    return Django(), take_effect


def sqlalchemy(url: str) -> tuple[object, TakeEffect]:
    """SQLAlchemy's sessions over psycopg, the effect an object that the commit flushes."""
    from sqlalchemy import BigInteger, Float, Integer, Text, create_engine
    from sqlalchemy.orm import DeclarativeBase, mapped_column, sessionmaker

    class Base(DeclarativeBase):
        """Of the one table."""

    class Effect(Base):
        __tablename__ = "effects"
        seq = mapped_column(BigInteger, primary_key=True)
        consumer = mapped_column(Text)
        event_id = mapped_column(Text)
        number = mapped_column(BigInteger)
        redriven = mapped_column(Integer)
        note = mapped_column(Text)
        handled_at = mapped_column(Float)

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=30)

    def take_effect(delivery: Delivery, number: int) -> None:
        delivery.tx.add(Effect(**_effect(delivery, number)))

    return sessionmaker(engine), take_effect


def _effect(delivery: Delivery, number: int) -> Mapping[str, Any]:
    return {
        "consumer": delivery.consumer,
        "event_id": delivery.event_id,
        "number": number,
        "redriven": int(delivery.redriven),
        "note": "",
        "handled_at": time.time(),
    }


PLAIN: Mapping[str, Plain] = {"sqlalchemy": sqlalchemy, "django": django}
