"""What stores and inboxes both need to know of the SQL databases under them.

Owns: how statements are read, what an engine's refusals mean, how its times are stored, and ends
that nothing may interrupt. Must not know any driver, and runs no statement.
"""
