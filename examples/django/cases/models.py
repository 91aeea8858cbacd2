"""Cases, and what is to be done about them."""

import uuid

from django.db import models


class Case(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    title = models.TextField()


class Task(models.Model):
    case_id = models.UUIDField(db_index=True)
    what = models.TextField()
