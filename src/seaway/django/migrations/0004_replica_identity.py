"""What a replica is told of sent events that are deleted."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0003_processes")]
    operations: ClassVar = [ApplySql(4)]
