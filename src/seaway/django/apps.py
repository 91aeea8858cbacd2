"""The application's configuration, for ``INSTALLED_APPS``."""

from importlib import import_module

from django.apps import AppConfig


class SeawayConfig(AppConfig):
    """Its tables are Seaway's, made by its own numbered SQL; its models look at them."""

    name = "seaway.django"
    label = "seaway"
    verbose_name = "Seaway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have ``manage.py check`` look at the settings, and connections be watched."""
        import_module("seaway.django.checks")
        import_module("seaway.django.guard").install()
