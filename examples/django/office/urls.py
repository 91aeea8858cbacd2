"""The admin, and two views."""

from cases import views
from django.contrib import admin
from django.urls import path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("cases", views.open_case),
    path("cases/<uuid:case_id>/tasks", views.tasks),
]
