"""Django: views write cases. Another process publishes their events and handles them.

python case_api_django.py migrate
python case_api_django.py runserver
seaway run case_service:app

A whole project in one file; its own tables, which would be models, are those of case_service.
"""

import json
import sys
import uuid

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "cases.db"}},
    INSTALLED_APPS=["seaway.django"],  # migrate makes Seaway's tables
    ROOT_URLCONF=__name__,
)
django.setup()

from case_service import TABLES, CaseOpened  # noqa: E402
from django.core.management import execute_from_command_line  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from seaway.django import outbox  # noqa: E402


def create_case(request: HttpRequest) -> JsonResponse:
    case_id, title = str(uuid.uuid4()), json.loads(request.body)["title"]
    with transaction.atomic():  # commits the case and its event, or neither
        with connection.cursor() as cursor:  # or case.save()
            cursor.execute("INSERT INTO cases VALUES (%s, %s)", (case_id, title))
        outbox.add(CaseOpened(case_id, title), key=case_id)
    return JsonResponse({"id": case_id}, status=201)


def tasks(request: HttpRequest, case_id: str) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT what FROM tasks WHERE case_id = %s", (case_id,))
        return JsonResponse([what for (what,) in cursor.fetchall()], safe=False)


urlpatterns = [path("cases", create_case), path("cases/<str:case_id>/tasks", tasks)]

if __name__ == "__main__":
    with connection.cursor() as made:
        made.connection.executescript(TABLES)
    execute_from_command_line(sys.argv)
