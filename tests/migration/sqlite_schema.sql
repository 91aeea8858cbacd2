CREATE TABLE seaway_discarded (
    letter       TEXT    NOT NULL,
    stored_at    INTEGER NOT NULL,
    queue        TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    headers      TEXT    NOT NULL CHECK (json_valid(headers)),
    payload      BLOB    NOT NULL,
    event_id     TEXT    NOT NULL,
    consumer     TEXT    NOT NULL,
    holds        INTEGER NOT NULL,
    behind       INTEGER NOT NULL,
    discarded_by TEXT    NOT NULL,
    why          TEXT    NOT NULL,
    discarded_at INTEGER NOT NULL,
    kept_until   INTEGER NOT NULL,
    PRIMARY KEY (letter, stored_at)
) STRICT;
CREATE TABLE seaway_inbox (
    consumer     TEXT    NOT NULL,
    event_id     TEXT    NOT NULL,
    processed_at INTEGER NOT NULL,
    PRIMARY KEY (event_id, consumer)
) STRICT, WITHOUT ROWID;
CREATE TABLE seaway_log (
    entry    INTEGER PRIMARY KEY AUTOINCREMENT,
    noted_at INTEGER NOT NULL,
    noted_by TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    about    TEXT    NOT NULL,
    detail   TEXT    NOT NULL CHECK (json_valid(detail)),
    seen_at  INTEGER
) STRICT;
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
CREATE TABLE seaway_places (
    part       TEXT    NOT NULL,
    stream     TEXT    NOT NULL,
    stream_seq INTEGER NOT NULL,
    event_id   TEXT    NOT NULL,
    stored_at  INTEGER NOT NULL,
    noted_at   INTEGER NOT NULL,
    PRIMARY KEY (part, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE seaway_processes (
    process  TEXT    NOT NULL,
    part     TEXT    NOT NULL,
    about    TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    since_at INTEGER NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (process, part, about)
) STRICT, WITHOUT ROWID;
CREATE TABLE seaway_run_items (
    run        TEXT    NOT NULL,
    item       TEXT    NOT NULL,
    event_id   TEXT    NOT NULL,
    consumer   TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (run, item)
) STRICT, WITHOUT ROWID;
CREATE TABLE seaway_runs (
    run        TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,
    about      TEXT    NOT NULL,
    begun_by   TEXT    NOT NULL,
    plan       TEXT    NOT NULL CHECK (json_valid(plan)),
    state      TEXT    NOT NULL CHECK (state IN ('running', 'stopped', 'failed', 'done')),
    progress   TEXT    NOT NULL CHECK (json_valid(progress)),
    begun_at   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE seaway_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT;
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
, healed_at INTEGER) STRICT;
CREATE TABLE seaway_unhandled (
    consumer     TEXT    NOT NULL,
    event_id     TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('trying', 'waiting')),
    tries        INTEGER NOT NULL DEFAULT 0,
    ordering_key TEXT,
    place        INTEGER,
    failed       INTEGER,
    letter       INTEGER,
    noted_at     INTEGER NOT NULL,
    PRIMARY KEY (consumer, event_id),
    CHECK (state <> 'waiting' OR ordering_key || place || failed IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX seaway_discarded_kept_until ON seaway_discarded (kept_until);
CREATE INDEX seaway_inbox_processed_at ON seaway_inbox (processed_at);
CREATE INDEX seaway_outbox_parked ON seaway_outbox (position) WHERE parked_at IS NOT NULL;
CREATE INDEX seaway_sent_correlation_id ON seaway_sent (correlation_id);
CREATE INDEX seaway_sent_event_id ON seaway_sent (event_id);
CREATE INDEX seaway_sent_place ON seaway_sent (stream, stream_seq);
CREATE INDEX seaway_sent_sent_at ON seaway_sent (sent_at);
CREATE INDEX seaway_unhandled_trying ON seaway_unhandled (noted_at) WHERE state = 'trying';
CREATE INDEX seaway_unhandled_waiting ON seaway_unhandled (consumer, ordering_key, place, event_id)
    WHERE state = 'waiting';
