-- What mending dead letters leaves: what runs did, and what was discarded and can be brought back.

-- Work on many letters that can be stopped and gone on with: a row for each run. Kept for 400 days
-- after its end. plan: what was asked for; progress: how far it is. ended_at is null while it runs.
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

-- What became of each of a run's items, such as letters.
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

-- Letters that were discarded, whole, until kept_until. letter and stored_at: its place in its queue
-- and when that stored it, since a queue that is made anew gives its places a second time. holds: it
-- had a row in seaway_unhandled; behind: how many letters waited for it.
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

CREATE INDEX seaway_discarded_kept_until ON seaway_discarded (kept_until);
