"""Events that wait in a dead letter queue are unhandled ones: only where nothing older runs."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0005_unhandled")]
    operations: ClassVar = [ApplySql(6)]
