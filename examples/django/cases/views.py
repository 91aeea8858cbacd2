"""Views write: a case and its event, in one transaction."""

import json
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, JsonResponse

from cases.events import CaseOpened
from cases.models import Case, Task
from seaway.django import outbox


def open_case(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():  # commits the case and its event, or neither
        case = Case.objects.create(title=json.loads(request.body)["title"])
        outbox.add(CaseOpened(str(case.id), case.title), key=str(case.id))
    return JsonResponse({"id": str(case.id)}, status=201)


def tasks(request: HttpRequest, case_id: UUID) -> JsonResponse:
    found = Task.objects.filter(case_id=case_id).values_list("what", flat=True)
    return JsonResponse(list(found), safe=False)
