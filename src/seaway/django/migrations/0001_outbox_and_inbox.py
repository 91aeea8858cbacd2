"""The tables as they were at first."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    initial = True
    operations: ClassVar = [ApplySql(1)]
