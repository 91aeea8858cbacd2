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


def _effect(delivery: Delivery, number: int) -> Mapping[str, Any]:
    return {
        "consumer": delivery.consumer,
        "event_id": delivery.event_id,
        "number": number,
        "redriven": int(delivery.redriven),
        "note": "",
        "handled_at": time.time(),
    }


PLAIN: Mapping[str, Plain] = {"django": django}
