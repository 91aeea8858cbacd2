"""Seaway: reliable domain events for Python services on NATS JetStream."""

__version__ = "0.1.0"
