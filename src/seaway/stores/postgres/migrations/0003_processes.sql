-- What the processes at work here say of themselves, for seaway check: a row for each part that
-- works (about is empty) and for each thing that it waits for. Short; renewed every few seconds,
-- gone when the process ends.
CREATE TABLE seaway_processes (
    process  text        NOT NULL,
    part     text        NOT NULL,
    about    text        NOT NULL,
    reason   text        NOT NULL,
    since_at timestamptz NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_processes_pkey PRIMARY KEY (process, part, about)
);
