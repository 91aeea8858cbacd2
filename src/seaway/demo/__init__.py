"""``seaway demo``: the whole way at work, with faults, and a count of what became of every event.

Owns: a simulated service and two consuming services (or a real event log in place of the first),
their failures, and the reconciliation that judges the run. Processes, ledger and comparison are
those of ``seaway.proof``. Uses the library as any application does and stands above it.

    scenario, log   what is going to happen (pure; a file is read as a stream)
    plan            what was asked for, and what a folder already holds
    writer          makes it happen: rows, events and the ledger in one transaction
    services        the two consuming services, ordinary handlers and projections
    doubles         publishes some events a second time
    folder          what a run needs to go on after it was killed
    run             the phases, from an empty folder to the verdict
    reconcile       what was committed against what took effect, and the figures of the run
    view            what a person sees meanwhile
"""
