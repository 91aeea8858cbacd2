"""What waits in a dead letter queue to be handled in order."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0001_outbox_and_inbox")]
    operations: ClassVar = [ApplySql(2)]
