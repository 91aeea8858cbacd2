"""The application's configuration, for ``INSTALLED_APPS``."""

from django.apps import AppConfig


class SeawayConfig(AppConfig):
    """Has no models: the tables are Seaway's, made by its own numbered SQL."""

    name = "seaway.django"
    label = "seaway"
    verbose_name = "Seaway"
