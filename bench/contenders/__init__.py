"""Seaway, and the raw client as the reference, one module for each group of figures."""
