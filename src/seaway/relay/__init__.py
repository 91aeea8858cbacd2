"""The relay: takes committed events out of the outbox and gets them onto their streams.

Owns: which entry is published when, what an answer means for it, and when to wait. Must not know
any database or any client of the broker. Guarantees: an entry leaves the outbox only after its
stream acknowledged it; events of one ordering key reach the stream in outbox order, whatever
number of relays runs; an outage never uses up an entry's attempts.

Who is authoritative: the outbox for what must be published and in which order, the stream for what
has been, and what the outbox keeps of that for what the stream has lost since. The relay itself
remembers nothing that it could not lose.

    an entry                                      the relay

    waiting ──lease, claim──> claimed             lease ──> claim ──> publish ──> settle ─┐
       ^                         │                  ^         ^   (claim n+1 and settle   │
       │                      publish               │         │    n-2, while n is sent   │
       │                         │                  │         │    and n-1 is stored)     │
       │                         │                  │         └───────────────────────────┤
       ├──── no answer, ─────────┤                  │                      none left, or its turn
       │     no room, no leader, ├── acknowledged   │                      is over
       │     held                │      │           └──── leave the lease <───────────────┘
       ├──── refused, try again ─┤    settled               │        │
       │                         │   (kept for              │        └ nothing to do: store.wait
       │                      refused  retention)           └ trouble: pause, backoff, say it once
       │                      for good
       └──── outbox retry ─── parked   (later events of its key wait behind it)

What happens when ...

| ... | then |
| --- | --- |
| no acknowledgement comes | nothing is recorded; pause; the same ids are sent again |
| the stream is missing or without a leader | likewise; other streams go on meanwhile |
| the stream has no room for all of them | what fits goes, in order by key; what does not holds up |
| | its key alone, and is tried again as its subject is due |
| an event is larger than all of its stream | parked |
| the stream has its id already | looked at: its own is settled, another message's parks it |
| its row, another program's, cannot be published | parked alone, with what is wrong with it |
| it is still missing after ``stream_grace`` | its events are parked, with that as their error |
| the stream refuses a message as such | one attempt; parked at ``max_attempts``, or at once where |
| | no retry can help (too large, a subject that its stream does not take) |
| the server does not let us publish there | likewise, as one attempt |
| the database is away | pause; what was published unsettled is looked up before it is sent again |
| the process dies before publishing | the lease ends with it; another relay claims the same |
| ... between publishing and acknowledgement | the same ids are sent again: duplicates there |
| ... between acknowledgement and settling | likewise |
| ... and that is longer ago than the stream remembers ids | the stream is asked first (below) |
| the stream lost what it acknowledged, or was made anew | that is published again, before |
| | anything newer; what is no longer kept is told |
| the process is stopped (SIGSTOP) and goes on later | what it claimed is sent only under a lease |
| | that is confirmed anew; where it is lost, nothing |

An entry is claimed and settled in ``loop``, is on its way to its stream in ``batch``, and what
becomes of it is said in ``decisions``. Beside them: what a stream has already (``stored``), what is
remembered of a stream and told of its troubles (``memory``), what a stream has lost (``healing``,
``intact``).

A stream forgets ids after its duplicate window. Where an entry could have been sent longer ago
than that (the first entries of a relay's life, after any trouble, after a long gap between two
leases of a shard), the relay reads the headers of all that the stream has stored since the oldest
of them was written, and settles what is in the outbox as well, whatever its place there
(``stored``). Then the stream is trusted until the next unclean end.

A stream's bounds (``max_msgs``, ``max_bytes``, ``max_msgs_per_subject``) and its account's all give
one refusal, which does not say whose room is lacking. So a refusal counts for what needs as much
room of the same subject, and for nothing else. While something lies at the head of the outbox that
cannot go, a fifth of the relay's time goes to entries behind it, in turns that are long enough to
reach them, however many lie between.

A claim is handed to the broker while the one before it is still being stored; the broker makes it
ready and stores nothing of it until that one is whole on its streams. Whatever else that one comes
to (a refusal, silence, ids that the stream had), the claim is sorted out and begun anew.

Several relays divide the ordering keys: a lease holds a fair share of the shards, and is left every
second, so that a relay which has come finds its own. Entries of different shards are published at
the same time, those of one shard one batch after the other: with one shard (the default) the stream
has the order of the outbox.
"""

from seaway.relay.loop import Relay

__all__ = ["Relay"]
