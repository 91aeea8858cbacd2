-- What is known of what a stream acknowledged and has lost since.

-- Where on its stream each sent event lies. One that its stream had lost and that was published again
-- lies in its new place.
CREATE INDEX seaway_sent_place ON seaway_sent (stream, stream_seq);
ALTER TABLE seaway_sent ADD COLUMN healed_at INTEGER;

-- The last place of a stream that a part of the processes here knows of: part is a durable's name, or
-- what else reads or writes there. stored_at: when the stream stored what lies there, by its server.
CREATE TABLE seaway_places (
    part       TEXT    NOT NULL,
    stream     TEXT    NOT NULL,
    stream_seq INTEGER NOT NULL,
    event_id   TEXT    NOT NULL,
    stored_at  INTEGER NOT NULL,
    noted_at   INTEGER NOT NULL,
    PRIMARY KEY (part, stream)
) STRICT, WITHOUT ROWID;

-- What Seaway or an operator did that somebody must be able to read later: the newest has the highest
-- entry. Short; kept for 400 days. seen_at: when an operator said that it is known.
CREATE TABLE seaway_log (
    entry    INTEGER PRIMARY KEY AUTOINCREMENT,
    noted_at INTEGER NOT NULL,
    noted_by TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    about    TEXT    NOT NULL,
    detail   TEXT    NOT NULL CHECK (json_valid(detail)),
    seen_at  INTEGER
) STRICT;
