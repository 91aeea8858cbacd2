-- Events of consumers with on_failure="park" that wait in the dead letter queue, of their own fault
-- (failed) or behind an earlier event of their key. A row goes with its event's effects.
-- place: the event's sequence in its stream; 0 for what only a redrive has brought here.
-- letter: the letter's sequence in its queue, once it is there.
CREATE TABLE seaway_parked (
    consumer     TEXT    NOT NULL,
    event_id     TEXT    NOT NULL,
    ordering_key TEXT    NOT NULL,
    place        INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    letter       INTEGER,
    parked_at    INTEGER NOT NULL,
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX seaway_parked_order ON seaway_parked (consumer, ordering_key, place, event_id);
