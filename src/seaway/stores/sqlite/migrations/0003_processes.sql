-- What the processes at work here say of themselves, for seaway check: a row for each part that
-- works (about is empty) and for each thing that it waits for. Short; renewed every few seconds,
-- gone when the process ends.
CREATE TABLE seaway_processes (
    process  TEXT    NOT NULL,
    part     TEXT    NOT NULL,
    about    TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    since_at INTEGER NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (process, part, about)
) STRICT, WITHOUT ROWID;
