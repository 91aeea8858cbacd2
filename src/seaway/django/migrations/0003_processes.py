"""What the processes at work say of themselves."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0002_parked")]
    operations: ClassVar = [ApplySql(3)]
