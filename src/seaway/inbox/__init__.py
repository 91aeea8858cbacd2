"""The inbox in the user's own transactions: ``delivery.tx`` is the handle that the user works with.

    tx: what gives handles ──> inbox_for ──> InboxStore ──> inbox row, effects, events: one commit

Owns: which driver serves which handle. Must not import a driver before such a handle comes.
Guarantees: what ``contracts.InboxStore`` says, whichever the handle; nothing of the user's is
closed; an unknown object is refused by name, never guessed at.
"""

from seaway.inbox.opening import inbox_for, inbox_of, threads_of

__all__ = ["inbox_for", "inbox_of", "threads_of"]
