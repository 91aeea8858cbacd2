"""What the demo and the drills prove with: real processes on a stage, a ledger, and a comparison.

Owns: what every proof needs alike; a proof brings its plan, its handlers and its verdict. Stands on
``seaway.app`` as any application does. Guarantees: what was committed is written beside the
outbox, never read from it; nothing makes an effect unique; every id is looked for in every place.

    stage           one application made ready: settings, tables, topology; what is under way there
    supervisor      child processes: started, watched, started again, stopped
    child           the child's side: it ends with whoever started it
    faults          kill, freeze, restart a server; each when so much of the work is done
    ledger          what was committed and what took effect, in tables beside the library's own
    reconciliation  the ledger against the stream, the effects and the letters, id by id
"""
