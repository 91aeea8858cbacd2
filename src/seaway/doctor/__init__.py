"""The doctor: what is wrong, or will be, across server, streams, database, processes and code.

Owns: the findings, each with a code, what was seen, why it matters and what mends it. Must not know
who shows them. Guarantees: it changes nothing; what could not be looked for is named with its
reason; what ``seaway check`` judges is judged by the same code (``monitor``), and once.

    gather (asks, judges nothing) ──> rules (judge, ask nothing) ──> table (words) ──> report
"""

from seaway.doctor.gather import Clock, Declared, Gathered, check_monitoring, gather
from seaway.doctor.report import (
    Ailment,
    Diagnosis,
    Unexamined,
    diagnose,
    explained,
    grouped,
    known,
    markdown,
    page,
    summary,
)
from seaway.doctor.rules import Limits
from seaway.doctor.table import BY_CODE, ENTRIES, Entry, Weight

__all__ = [
    "BY_CODE",
    "ENTRIES",
    "Ailment",
    "Clock",
    "Declared",
    "Diagnosis",
    "Entry",
    "Gathered",
    "Limits",
    "Unexamined",
    "Weight",
    "check_monitoring",
    "diagnose",
    "explained",
    "gather",
    "grouped",
    "known",
    "markdown",
    "page",
    "summary",
]
