"""What there is to know of SQL databases, whichever the driver.

Owns: how statements are read and take their parameters, what an engine's refusals mean, how its
times are stored, work in steps, and ends that nothing may interrupt. Must not know any driver, and
runs no statement.
"""
