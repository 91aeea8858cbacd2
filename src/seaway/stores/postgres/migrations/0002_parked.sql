-- Events of consumers with on_failure="park" that wait in the dead letter queue, of their own fault
-- (failed) or behind an earlier event of their key. Short; a row goes with its event's effects.
-- place: the event's sequence in its stream; 0 for what only a redrive has brought here.
-- letter: the letter's sequence in its queue, once it is there.
CREATE TABLE seaway_parked (
    consumer     text        NOT NULL,
    event_id     text        NOT NULL COLLATE "C",
    ordering_key text        NOT NULL COLLATE "C",
    place        bigint      NOT NULL,
    failed       boolean     NOT NULL,
    letter       bigint,
    parked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_parked_pkey PRIMARY KEY (consumer, event_id)
);

CREATE INDEX seaway_parked_order ON seaway_parked (consumer, ordering_key, place, event_id);
