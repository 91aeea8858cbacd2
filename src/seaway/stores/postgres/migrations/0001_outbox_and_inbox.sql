-- Positions are the outbox's order. Writers of one ordering key that follow one another get
-- ascending ones; those of transactions that overlap may commit in another order.
-- CACHE 1: a session that kept a stock of positions would hand out old ones late.
CREATE SEQUENCE seaway_outbox_position AS bigint CACHE 1;

-- Committed events that the relay has not yet settled. Short and hot: rows leave it when their
-- stream has acknowledged them, so it is vacuumed early and often.
-- The CASE gives the transaction its id before the position: a relay that sees every transaction
-- older than some moment ended knows that no position handed out before it will appear any more.
CREATE TABLE seaway_outbox (
    position     bigint      NOT NULL DEFAULT (
        CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('seaway_outbox_position') END
    ),
    event_id     uuid        NOT NULL,
    subject      text        NOT NULL,
    ordering_key text        NOT NULL,
    payload      bytea       NOT NULL,
    headers      json        NOT NULL,
    added_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts     integer     NOT NULL DEFAULT 0,
    last_error   text,
    parked_at    timestamptz,
    CONSTRAINT seaway_outbox_pkey PRIMARY KEY (position),
    CONSTRAINT seaway_outbox_event_id_key UNIQUE (event_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.0,
    autovacuum_analyze_threshold = 100000
);

ALTER SEQUENCE seaway_outbox_position OWNED BY seaway_outbox.position;

CREATE INDEX seaway_outbox_parked ON seaway_outbox (ordering_key, position)
    WHERE parked_at IS NOT NULL;

-- One row. Into how many shards the relays divide the ordering keys, and how often parked events
-- were let go again: what a relay has learnt about the head of the outbox ends with either.
CREATE TABLE seaway_relay (
    one      boolean NOT NULL DEFAULT true,
    shards   integer NOT NULL DEFAULT 1,
    releases bigint  NOT NULL DEFAULT 0,
    CONSTRAINT seaway_relay_pkey PRIMARY KEY (one),
    CONSTRAINT seaway_relay_one_check CHECK (one),
    CONSTRAINT seaway_relay_shards_check CHECK (shards BETWEEN 1 AND 1024)
);

INSERT INTO seaway_relay DEFAULT VALUES;

-- What the streams acknowledged, kept for a while so that it can be traced and sent again. One
-- partition a day, dropped whole; the default takes what comes when no day is ready. An event that
-- starts a chain is its own correlation, and has none here.
CREATE TABLE seaway_sent (
    position       bigint      NOT NULL,
    event_id       uuid        NOT NULL,
    correlation_id text,
    subject        text        NOT NULL,
    ordering_key   text        NOT NULL,
    payload        bytea       NOT NULL,
    headers        json        NOT NULL,
    added_at       timestamptz NOT NULL,
    attempts       integer     NOT NULL,
    stream         text        NOT NULL,
    stream_seq     bigint      NOT NULL,
    sent_at        timestamptz NOT NULL
) PARTITION BY RANGE (sent_at);

CREATE TABLE seaway_sent_default PARTITION OF seaway_sent DEFAULT;

CREATE INDEX seaway_sent_event_id ON seaway_sent (event_id);
CREATE INDEX seaway_sent_correlation_id ON seaway_sent (correlation_id)
    WHERE correlation_id IS NOT NULL;

-- Which consumer has which event's effects. Written in the transaction of those effects. One
-- partition for each day that event ids (UUIDv7, whose order is time) begin with, dropped whole;
-- ids above every UUIDv7 of this century have one of their own, and the default takes the rest.
CREATE TABLE seaway_inbox (
    consumer     text        NOT NULL,
    event_id     text        NOT NULL COLLATE "C",
    processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_inbox_pkey PRIMARY KEY (event_id, consumer)
) PARTITION BY RANGE (event_id);

CREATE TABLE seaway_inbox_default PARTITION OF seaway_inbox DEFAULT
    WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE TABLE seaway_inbox_other PARTITION OF seaway_inbox FOR VALUES FROM ('04') TO (MAXVALUE)
    WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX seaway_inbox_processed_at ON seaway_inbox USING brin (processed_at);
