-- What is known of what a stream acknowledged and has lost since.

-- Where on its stream each sent event lies. One that its stream had lost and that was published again
-- lies in its new place.
CREATE INDEX seaway_sent_place ON seaway_sent (stream, stream_seq);
ALTER TABLE seaway_sent ADD COLUMN healed_at timestamptz;

-- The last place of a stream that a part of the processes here knows of: part is a durable's name, or
-- what else reads or writes there. stored_at: when the stream stored what lies there, by its server.
CREATE TABLE seaway_places (
    part       text        NOT NULL,
    stream     text        NOT NULL,
    stream_seq bigint      NOT NULL,
    event_id   text        NOT NULL,
    stored_at  timestamptz NOT NULL,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_places_pkey PRIMARY KEY (part, stream)
);

-- What Seaway or an operator did that somebody must be able to read later: the newest has the highest
-- entry. Short; kept for 400 days. seen_at: when an operator said that it is known.
CREATE TABLE seaway_log (
    entry    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    noted_by text        NOT NULL,
    action   text        NOT NULL,
    about    text        NOT NULL,
    detail   json        NOT NULL,
    seen_at  timestamptz,
    CONSTRAINT seaway_log_pkey PRIMARY KEY (entry)
);
