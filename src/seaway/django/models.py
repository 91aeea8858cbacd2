"""Seaway's tables and dead letters to look at: in tests, in the admin, in queries of one's own.

Owns: nothing. The tables are made by Seaway's numbered SQL and written by its own code; migrations
know the models so that ``flush``, and so a ``TransactionTestCase``, empties their tables too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db import models

from seaway.django.fields import Headers, Identity, Moment

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]


class _Event(models.Model):
    position: _Field = models.BigIntegerField(primary_key=True)
    event_id: _Field = Identity("event id")
    subject: _Field = models.TextField()
    ordering_key: _Field = models.TextField("key")
    payload: _Field = models.BinaryField()
    headers: _Field = Headers()
    added_at: _Field = Moment()
    attempts: _Field = models.IntegerField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.subject} {self.event_id}"


class OutboxEvent(_Event):
    """A committed event that no stream has acknowledged yet."""

    last_error: _Field = models.TextField(null=True)
    parked_at: _Field = Moment(null=True)

    class Meta:
        db_table = "seaway_outbox"
        ordering: ClassVar = ["position"]
        default_permissions = ("view",)
        verbose_name = "event in the outbox"
        verbose_name_plural = "events in the outbox"


class SentEvent(_Event):
    """An event that its stream has acknowledged, within ``outbox.retention``."""

    stream: _Field = models.TextField()
    stream_seq: _Field = models.BigIntegerField("sequence")
    sent_at: _Field = Moment()

    class Meta:
        db_table = "seaway_sent"
        ordering: ClassVar = ["-position"]
        default_permissions = ("view",)
        verbose_name = "sent event"


class HandledEvent(models.Model):
    """An inbox row: which consumer has which event's effects. Newest ids first."""

    # Of the key's two columns the one that orders; an event has a row for each consumer.
    event_id: _Field = models.TextField("event id", primary_key=True)
    consumer: _Field = models.TextField()
    processed_at: _Field = Moment()

    class Meta:
        db_table = "seaway_inbox"
        ordering: ClassVar = ["-event_id", "consumer"]
        default_permissions = ("view",)
        verbose_name = "handled event"

    def __str__(self) -> str:
        return f"{self.event_id} {self.consumer}"


class DeadLetter(OutboxEvent):
    """Stands for the dead letters, which lie in JetStream: who may view it may see them."""

    class Meta:
        proxy = True  # It has no rows, which `dumpdata` would ask for.
        default_permissions = ("view",)
        verbose_name = "dead letter"
