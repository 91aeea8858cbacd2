"""What became of one event, or of all that one request caused.

    values    a trace: its members, and the steps of each
    gather    asks databases and server, in bounds
    tree      what caused what, folded by kind
    text, svg for people

Guarantees: nothing is changed; what is away, or holds nothing of that time any more, is named.
"""

from seaway.history.trace.gather import Tracer
from seaway.history.trace.values import Member, Step, Trace

__all__ = ["Member", "Step", "Trace", "Tracer"]
