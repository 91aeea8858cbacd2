-- Committed events that the relay has not yet settled, in the order they were written.
-- AUTOINCREMENT: a position is never given twice, so a settled entry cannot be mistaken.
CREATE TABLE seaway_outbox (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id     TEXT    NOT NULL UNIQUE,
    subject      TEXT    NOT NULL,
    ordering_key TEXT    NOT NULL,
    payload      BLOB    NOT NULL,
    headers      TEXT    NOT NULL CHECK (json_valid(headers)),
    added_at     INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    last_error   TEXT,
    parked_at    INTEGER
) STRICT;

CREATE INDEX seaway_outbox_parked ON seaway_outbox (position) WHERE parked_at IS NOT NULL;

-- What the stream acknowledged, kept for a while so that it can be traced and sent again.
CREATE TABLE seaway_sent (
    position       INTEGER PRIMARY KEY,
    event_id       TEXT    NOT NULL,
    correlation_id TEXT,
    subject        TEXT    NOT NULL,
    ordering_key   TEXT    NOT NULL,
    payload        BLOB    NOT NULL,
    headers        TEXT    NOT NULL,
    added_at       INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    stream         TEXT    NOT NULL,
    stream_seq     INTEGER NOT NULL,
    sent_at        INTEGER NOT NULL
) STRICT;

CREATE INDEX seaway_sent_event_id ON seaway_sent (event_id);
CREATE INDEX seaway_sent_correlation_id ON seaway_sent (correlation_id);
CREATE INDEX seaway_sent_sent_at ON seaway_sent (sent_at);

-- Which consumer has which event's effects. Written in the transaction of those effects.
CREATE TABLE seaway_inbox (
    consumer     TEXT    NOT NULL,
    event_id     TEXT    NOT NULL,
    processed_at INTEGER NOT NULL,
    PRIMARY KEY (event_id, consumer)
) STRICT, WITHOUT ROWID;

CREATE INDEX seaway_inbox_processed_at ON seaway_inbox (processed_at);
