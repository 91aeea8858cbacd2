"""The tables as they were at first; and the models, which are made of nothing else."""

from typing import ClassVar

from django.db import migrations, models

from seaway.django.fields import Headers, Identity, Moment
from seaway.django.operations import ApplySql

_EVENT = [
    ("position", models.BigIntegerField(primary_key=True, serialize=False)),
    ("event_id", Identity("event id")),
    ("subject", models.TextField()),
    ("ordering_key", models.TextField("key")),
    ("payload", models.BinaryField()),
    ("headers", Headers()),
    ("added_at", Moment()),
    ("attempts", models.IntegerField()),
]
_LOOKING = {"default_permissions": ("view",)}


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    initial = True
    operations: ClassVar = [
        migrations.SeparateDatabaseAndState(
            database_operations=[ApplySql(1)],
            state_operations=[
                migrations.CreateModel(
                    "OutboxEvent",
                    [
                        *_EVENT,
                        ("last_error", models.TextField(null=True)),
                        ("parked_at", Moment(null=True)),
                    ],
                    {
                        "db_table": "seaway_outbox",
                        "ordering": ["position"],
                        "verbose_name": "event in the outbox",
                        "verbose_name_plural": "events in the outbox",
                        **_LOOKING,
                    },
                ),
                migrations.CreateModel(
                    "SentEvent",
                    [
                        *_EVENT,
                        ("stream", models.TextField()),
                        ("stream_seq", models.BigIntegerField("sequence")),
                        ("sent_at", Moment()),
                    ],
                    {
                        "db_table": "seaway_sent",
                        "ordering": ["-position"],
                        "verbose_name": "sent event",
                        **_LOOKING,
                    },
                ),
                migrations.CreateModel(
                    "HandledEvent",
                    [
                        (
                            "event_id",
                            models.TextField("event id", primary_key=True, serialize=False),
                        ),
                        ("consumer", models.TextField()),
                        ("processed_at", Moment()),
                    ],
                    {
                        "db_table": "seaway_inbox",
                        "ordering": ["-event_id", "consumer"],
                        "verbose_name": "handled event",
                        **_LOOKING,
                    },
                ),
                migrations.CreateModel(
                    "DeadLetter",
                    [],
                    {"proxy": True, "verbose_name": "dead letter", "indexes": [], **_LOOKING},
                    bases=("seaway.outboxevent",),
                ),
            ],
        )
    ]
