"""Mending many dead letters: what may be done to them at once, and how that goes on or is stopped.

A run of redrives (``runs``) sends letters in batches, notes in the database what it means to send
before it does, and watches what became of it.
"""
