"""Tables of what a stream has lost: known places, and a log."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0006_parked_post")]
    operations: ClassVar = [ApplySql(7)]
