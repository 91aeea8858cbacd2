"""Brokers: each a package that implements ``contracts.Broker``."""
