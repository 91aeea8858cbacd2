-- What mending dead letters leaves: what runs did, and what was discarded and can be brought back.

-- Work on many letters that can be stopped and gone on with: a row for each run. Kept for 400 days
-- after its end. plan: what was asked for; progress: how far it is. ended_at is null while it runs.
CREATE TABLE seaway_runs (
    run        text        NOT NULL,
    kind       text        NOT NULL,
    about      text        NOT NULL,
    begun_by   text        NOT NULL,
    plan       json        NOT NULL,
    state      text        NOT NULL,
    progress   json        NOT NULL,
    begun_at   timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    ended_at   timestamptz,
    CONSTRAINT seaway_runs_pkey PRIMARY KEY (run),
    CONSTRAINT seaway_runs_state_check CHECK (state IN ('running', 'stopped', 'failed', 'done'))
);

-- What became of each of a run's items, such as letters.
CREATE TABLE seaway_run_items (
    run        text        NOT NULL,
    item       text        NOT NULL COLLATE "C",
    event_id   text        NOT NULL,
    consumer   text        NOT NULL,
    state      text        NOT NULL,
    detail     text        NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT seaway_run_items_pkey PRIMARY KEY (run, item)
);

-- Letters that were discarded, whole, until kept_until. letter and stored_at: its place in its queue
-- and when that stored it, since a queue that is made anew gives its places a second time. holds: it
-- had a row in seaway_unhandled; behind: how many letters waited for it.
CREATE TABLE seaway_discarded (
    letter       text        NOT NULL,
    stored_at    timestamptz NOT NULL,
    queue        text        NOT NULL,
    subject      text        NOT NULL,
    headers      json        NOT NULL,
    payload      bytea       NOT NULL,
    event_id     text        NOT NULL,
    consumer     text        NOT NULL,
    holds        boolean     NOT NULL,
    behind       integer     NOT NULL,
    discarded_by text        NOT NULL,
    why          text        NOT NULL,
    discarded_at timestamptz NOT NULL,
    kept_until   timestamptz NOT NULL,
    CONSTRAINT seaway_discarded_pkey PRIMARY KEY (letter, stored_at)
);

CREATE INDEX seaway_discarded_kept_until ON seaway_discarded (kept_until);
