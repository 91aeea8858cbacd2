-- How events stand that a consumer has not handled: a row for each of which more is to be known than
-- that it comes. Short. A row is no effect: those are in seaway_inbox, and where an event has both, it
-- took effect. Not a state of the inbox's rows: the version before reads any of those as an effect.
-- state: trying ... tried, and how that ends is not known: counted here first, each time;
--        waiting .. in the dead letter queue, of a consumer with on_failure="park", of its own fault
--                   (failed) or behind an earlier event of its key. The row goes with the effects.
-- place: the event's sequence in its stream; 0 for what only a redrive has brought here.
-- letter: the letter's sequence in its queue, once it is there.
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

CREATE INDEX seaway_unhandled_waiting ON seaway_unhandled (consumer, ordering_key, place, event_id)
    WHERE state = 'waiting';
CREATE INDEX seaway_unhandled_trying ON seaway_unhandled (noted_at) WHERE state = 'trying';

INSERT INTO seaway_unhandled
    (consumer, event_id, state, ordering_key, place, failed, letter, noted_at)
SELECT consumer, event_id, 'waiting', ordering_key, place, failed, letter, parked_at
FROM seaway_parked;

-- Until 0006, what processes of the version before write in seaway_parked is written here, too, and
-- the other way round. What is so already ends it, also where triggers are recursive.
CREATE TRIGGER seaway_parked_inserted AFTER INSERT ON seaway_parked
WHEN NOT EXISTS (
    SELECT 1 FROM seaway_unhandled
    WHERE consumer = NEW.consumer AND event_id = NEW.event_id AND state = 'waiting'
)
BEGIN
    INSERT INTO seaway_unhandled
        (consumer, event_id, state, ordering_key, place, failed, letter, noted_at)
    VALUES (
        NEW.consumer, NEW.event_id, 'waiting', NEW.ordering_key, NEW.place, NEW.failed, NEW.letter,
        NEW.parked_at
    )
    ON CONFLICT (consumer, event_id) DO UPDATE SET state = excluded.state, tries = 0,
        ordering_key = excluded.ordering_key, place = excluded.place, failed = excluded.failed,
        letter = excluded.letter, noted_at = excluded.noted_at;
END;

CREATE TRIGGER seaway_parked_updated AFTER UPDATE ON seaway_parked
BEGIN
    UPDATE seaway_unhandled SET failed = NEW.failed, letter = NEW.letter, tries = 0
    WHERE consumer = NEW.consumer AND event_id = NEW.event_id AND state = 'waiting'
        AND (failed IS NOT NEW.failed OR letter IS NOT NEW.letter);
END;

CREATE TRIGGER seaway_parked_deleted AFTER DELETE ON seaway_parked
BEGIN
    DELETE FROM seaway_unhandled
    WHERE consumer = OLD.consumer AND event_id = OLD.event_id AND state = 'waiting';
END;

CREATE TRIGGER seaway_unhandled_inserted AFTER INSERT ON seaway_unhandled
WHEN NEW.state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM seaway_parked WHERE consumer = NEW.consumer AND event_id = NEW.event_id
)
BEGIN
    INSERT INTO seaway_parked
        (consumer, event_id, ordering_key, place, failed, letter, parked_at)
    VALUES (
        NEW.consumer, NEW.event_id, NEW.ordering_key, NEW.place, NEW.failed, NEW.letter,
        NEW.noted_at
    );
END;

CREATE TRIGGER seaway_unhandled_updated AFTER UPDATE ON seaway_unhandled
WHEN NEW.state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM seaway_parked
    WHERE consumer = NEW.consumer AND event_id = NEW.event_id
        AND failed IS NEW.failed AND letter IS NEW.letter
)
BEGIN
    INSERT INTO seaway_parked
        (consumer, event_id, ordering_key, place, failed, letter, parked_at)
    VALUES (
        NEW.consumer, NEW.event_id, NEW.ordering_key, NEW.place, NEW.failed, NEW.letter,
        NEW.noted_at
    )
    ON CONFLICT (consumer, event_id) DO UPDATE SET failed = excluded.failed,
        letter = excluded.letter;
END;

CREATE TRIGGER seaway_unhandled_deleted AFTER DELETE ON seaway_unhandled
WHEN OLD.state = 'waiting'
BEGIN
    DELETE FROM seaway_parked WHERE consumer = OLD.consumer AND event_id = OLD.event_id;
END;
