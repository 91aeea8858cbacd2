"""For tests of services: a broker and a store in memory, real servers, and the suites they pass.

``memory_broker.MemoryBroker`` and ``memory_store.MemoryStore`` stand in for the real ones,
``rehearsal.rehearsal`` puts an application to work on them, ``drills`` break the real ones;
``plugin`` gives pytest fixtures, which all begin with ``seaway_``; a new engine is done when it
passes ``conformance.broker`` or ``conformance.store``.
Nothing is imported here: pytest loads this package in every run, before coverage starts.
"""
