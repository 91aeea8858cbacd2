"""Fault drills: real servers, real processes, real signals, and every id accounted for at the end.

Each is a module that runs by itself (``python -m seaway.testing.drills.relay --help``) and a
function that a test calls with smaller figures. They are bounded, talk to loopback only, and leave
nothing behind.
"""
