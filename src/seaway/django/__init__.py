"""A Django application: Seaway's tables as migrations, and the outbox by database alias."""
