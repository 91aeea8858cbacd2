-- Events that a consumer has tried, and how often, while it is not known how that ends: what is tried
-- again is counted here first, in a transaction of its own. A row is no effect: those are in
-- seaway_inbox, and where an event has both, it took effect.
-- Not a state of the inbox's rows: the version before reads any of those as an effect (ADR 0015).
CREATE TABLE seaway_unhandled (
    consumer TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    state    TEXT    NOT NULL,
    tries    INTEGER NOT NULL DEFAULT 0,
    noted_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX seaway_unhandled_noted_at ON seaway_unhandled (noted_at);
