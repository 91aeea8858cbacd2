-- Events that a consumer has tried, and how often, while it is not known how that ends: what is tried
-- again is counted here first, in a transaction of its own. A row is no effect: those are in
-- seaway_inbox, and where an event has both, it took effect.
-- Not a state of the inbox's rows: the version before reads any of those as an effect (ADR 0015).
CREATE TABLE seaway_unhandled (
    consumer text        NOT NULL,
    event_id text        NOT NULL COLLATE "C",
    state    text        NOT NULL,
    tries    integer     NOT NULL DEFAULT 0,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_unhandled_pkey PRIMARY KEY (consumer, event_id)
);

CREATE INDEX seaway_unhandled_noted_at ON seaway_unhandled (noted_at);
