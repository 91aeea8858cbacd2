"""A table of events without effect: being tried, or waiting."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0004_replica_identity")]
    operations: ClassVar = [ApplySql(5)]
