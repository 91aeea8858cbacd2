"""Tables of mending: what runs did, and discarded letters that can be brought back."""

from typing import ClassVar

from django.db import migrations

from seaway.django.operations import ApplySql


class Migration(migrations.Migration):
    """See ``seaway.django.operations``."""

    dependencies: ClassVar = [("seaway", "0007_lost")]
    operations: ClassVar = [ApplySql(8)]
