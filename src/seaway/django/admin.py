"""Pages of Django's admin that look, and change nothing: outbox, sent, inbox and dead letters.

Guarantees: no page waits for a server longer than ``letters.SECONDS``, nor counts a large table to
its end. Letters are mended with ``manage.py seaway dlq``, whose commands the pages show.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from seaway.dead_letters import Selection
from seaway.django import letters
from seaway.django.models import DeadLetter, HandledEvent, OutboxEvent, SentEvent
from seaway.errors import NotFound, SeawayError

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    _ModelAdmin = admin.ModelAdmin
    _Paginator = Paginator


class Bounded(_Paginator):
    """Counts as far as anybody leafs."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        """See ``Paginator``."""
        found: Any = self.object_list
        return int(found.order_by()[: self.MOST].count())


class Looking(_ModelAdmin):
    """Nothing is added, changed or deleted here."""

    paginator = Bounded
    show_full_result_count = False
    search_help_text = "An event id, a subject or a key, whole."

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class Events(Looking):
    """Events of the outbox or of what was sent."""

    search_fields = ("subject",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole values, for which there may be an index."""
        if not (term := search_term.strip()):
            return queryset, False
        found = Q(subject=term) | Q(ordering_key=term)
        with suppress(ValueError):
            found |= Q(event_id=str(UUID(term)))
        return queryset.filter(found), False

    @admin.display(description="payload")
    def shown_payload(self, event: OutboxEvent | SentEvent) -> SafeString:
        """The payload for people."""
        return format_html("<pre>{}</pre>", readable(bytes(event.payload)))

    @admin.display(description="headers")
    def shown_headers(self, event: OutboxEvent | SentEvent) -> SafeString:
        """A line for each."""
        lines = (f"{name}: {value}" for name, value in event.headers.items())
        return format_html("<pre>{}</pre>", "\n".join(lines))


class Parked(admin.SimpleListFilter):
    """Those that the relay has set aside."""

    title = "parked"
    parameter_name = "parked"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Parked"), ("no", "On their way")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.filter(parked_at__isnull=self.value() == "no")


@admin.register(OutboxEvent)
class OutboxAdmin(Events):
    list_display = ("event_id", "subject", "ordering_key", "added_at", "attempts", "parked_at")
    list_filter: ClassVar = [Parked]
    fields = (
        *("event_id", "subject", "ordering_key", "added_at", "attempts", "parked_at"),
        *("last_error", "shown_headers", "shown_payload"),
    )


@admin.register(SentEvent)
class SentAdmin(Events):
    list_display = ("event_id", "subject", "ordering_key", "stream", "stream_seq", "sent_at")
    fields = (
        *("event_id", "subject", "ordering_key", "stream", "stream_seq", "sent_at", "added_at"),
        *("attempts", "shown_headers", "shown_payload"),
    )


@admin.register(HandledEvent)
class HandledAdmin(Looking):
    list_display = ("event_id", "consumer", "processed_at")
    list_display_links = None
    search_fields = ("event_id",)
    search_help_text = "An event id, whole."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Those of consumers: what the sweeper notes there has a blank in its name."""
        return super().get_queryset(request).exclude(consumer__contains=" ")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Whole values, for which there is an index."""
        term = search_term.strip()
        return (queryset.filter(event_id=term) if term else queryset), False


@admin.register(DeadLetter)
class DeadLetterAdmin(Looking):
    """Asks the server; ``?consumer=`` and ``?reason=`` select."""

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_%s"
        view = self.admin_site.admin_view
        return [
            path("", view(self.listed), name=name % "changelist"),
            path("<str:letter_id>/", view(self.letter), name=name % "change"),
        ]

    def listed(self, request: HttpRequest) -> HttpResponse:
        """The oldest, in a table."""
        consumer, reason = (request.GET.get(name) or None for name in ("consumer", "reason"))
        selection = Selection(consumer=consumer, reason=reason)
        return self._page(
            request,
            "seaway/letters.html",
            "Dead letters",
            lambda: {"letters": letters.oldest(selection)},
            chosen=selection,
            most=letters.MOST,
        )

    def letter(self, request: HttpRequest, letter_id: str) -> HttpResponse:
        """One of them, with its event."""

        def read() -> dict[str, Any]:
            shown = letters.one(letter_id)
            event = shown.event
            return {
                "letter": shown.letter,
                "gone": shown.gone,
                "headers": dict(event.headers) if event else {},
                "payload": readable(event.payload) if event else "",
            }

        return self._page(request, "seaway/letter.html", letter_id, read)

    def _page(
        self, request: HttpRequest, template: str, title: str, read: Any, **context: Any
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        status = 200
        try:
            context |= read()
        except SeawayError as error:
            away = not isinstance(error, NotFound)
            context |= {"error": str(error), "away": away}
            status = 503 if away else 404
        site = self.admin_site
        back = reverse(f"{site.name}:seaway_deadletter_changelist")
        context |= {**site.each_context(request), "opts": self.opts, "title": title, "back": back}
        return TemplateResponse(request, template, context, status=status)


def readable(payload: bytes) -> str:
    """JSON set in lines, other text as it is, bytes in hex."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
