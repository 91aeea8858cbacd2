"""SEAWAY_CONFIG=../seaway.yaml python with_django.py cases.db

A whole project in one file, its tables made by ``migrate``.
"""

import sys

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from events import TABLE, CaseOpened

from seaway.django import outbox

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["seaway.django"],
)
django.setup()


def open_case(case_id: str, title: str) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:  # or case.save()
            cursor.execute("INSERT INTO cases VALUES (%s, %s)", (case_id, title))
        outbox.add(CaseOpened(case_id, title), key=case_id)


call_command("migrate", verbosity=0)
with connection.cursor() as made:
    made.execute(TABLE)
open_case("case-1", "Broken window")
