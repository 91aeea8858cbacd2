"""Drops the table ``seaway_parked``: only once no process of an older version is left."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0005_unhandled")]
    operations: ClassVar = [ApplySql(6)]
