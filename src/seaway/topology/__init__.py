"""Streams and durables as the file says: compare, say what a change costs, apply, export.

Owns: the server-side shape of everything Seaway needs. The file is the authority (ADR 0003); what
the server has beyond it is reported and never touched. Must not know the nats client.
Guarantees: nothing stored is lost unless the caller allows it; no field that Seaway does not know
is dropped; what was written is read back; applying again after a crash completes the work.
"""

from seaway.topology.compare import Change, Plan, ServerState, plan
from seaway.topology.rights import ROLES, Rights, lacking_rights, rights
from seaway.topology.server import actual, apply, export, exported
from seaway.topology.shape import Topology, desired

__all__ = [
    "ROLES",
    "Change",
    "Plan",
    "Rights",
    "ServerState",
    "Topology",
    "actual",
    "apply",
    "desired",
    "export",
    "exported",
    "lacking_rights",
    "plan",
    "rights",
]
