"""A stream's history once more: as lines that an outbox takes, or into a handler.

    window ──> events ──> lines                    another outbox, another server
                  └─> in order by key, some at a time ──> shadow      nothing is kept
                                                     └──> reprocess   in place of the first effect

Owns: which part of a stream is meant, the order in which it is worked on, what is compared with
what, and how far a run is. Must not know: how a handler is called, which ``consumer.trials`` does.
Guarantees: no durable is touched; memory does not grow with the events; a run that was ended in
any way goes on where it was.
"""
