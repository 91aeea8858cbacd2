"""``seaway demo``: the whole way at work, with faults, and a count of what became of every event.

Owns: a simulated service and two consuming services (or a real event log in place of the first),
the processes they run in, the faults thrown at them, and the reconciliation that judges the run.
Uses the library as any application does (``seaway.app``) and stands above it.
Guarantees: the ledger of what was committed is written beside the outbox, never read from it, and
effects are plain inserts that nothing makes unique, so that a loss or a double effect must show.

    scenario, log   what is going to happen (pure; a file is read as a stream)
    writer          makes it happen: rows and events in one transaction, the ledger beside them
    services        the two consuming services, ordinary handlers and projections
    worker          one child process: the relay, or one consuming service
    supervisor      starts the children, notices their deaths, starts them again
    chaos           kill -9, and the server gone for a while
    doubles         publishes some events a second time
    run             the stages, from an empty folder to the verdict
    reconcile       id by id, what was committed against what took effect
    view            what a person sees meanwhile
"""
