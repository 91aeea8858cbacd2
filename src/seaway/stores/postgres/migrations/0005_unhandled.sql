-- How events stand that a consumer has not handled: a row for each of which more is to be known than
-- that it comes. Short. A row is no effect: those are in seaway_inbox, and where an event has both, it
-- took effect. Not a state of the inbox's rows: the version before reads any of those as an effect.
-- state: trying ... tried, and how that ends is not known: counted here first, each time;
--        waiting .. in the dead letter queue, of a consumer with on_failure="park", of its own fault
--                   (failed) or behind an earlier event of its key. The row goes with the effects.
-- place: the event's sequence in its stream; 0 for what only a redrive has brought here.
-- letter: the letter's sequence in its queue, once it is there.
CREATE TABLE seaway_unhandled (
    consumer     text        NOT NULL,
    event_id     text        NOT NULL COLLATE "C",
    state        text        NOT NULL,
    tries        integer     NOT NULL DEFAULT 0,
    ordering_key text        COLLATE "C",
    place        bigint,
    failed       boolean,
    letter       bigint,
    noted_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT seaway_unhandled_pkey PRIMARY KEY (consumer, event_id),
    CONSTRAINT seaway_unhandled_state_check CHECK (state IN ('trying', 'waiting')),
    CONSTRAINT seaway_unhandled_waiting_check
        CHECK (state <> 'waiting' OR num_nulls(ordering_key, place, failed) = 0)
);

CREATE INDEX seaway_unhandled_waiting ON seaway_unhandled (consumer, ordering_key, place, event_id)
    WHERE state = 'waiting';
CREATE INDEX seaway_unhandled_trying ON seaway_unhandled (noted_at) WHERE state = 'trying';

-- Until 0006, what processes of the version before write in seaway_parked is written here, too, and
-- the other way round. With the owner's rights: the roles need none on the other table.
CREATE OR REPLACE FUNCTION seaway_parked_told() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format(
            'DELETE FROM %I.seaway_unhandled
             WHERE consumer = $1 AND event_id = $2 AND state = ''waiting''', TG_TABLE_SCHEMA
        ) USING OLD.consumer, OLD.event_id;
    ELSE
        EXECUTE format(
            'INSERT INTO %I.seaway_unhandled
                (consumer, event_id, state, ordering_key, place, failed, letter, noted_at)
             VALUES ($1, $2, ''waiting'', $3, $4, $5, $6, $7)
             ON CONFLICT (consumer, event_id) DO UPDATE SET state = excluded.state, tries = 0,
                ordering_key = excluded.ordering_key, place = excluded.place,
                failed = excluded.failed, letter = excluded.letter,
                noted_at = excluded.noted_at', TG_TABLE_SCHEMA
        ) USING NEW.consumer, NEW.event_id, NEW.ordering_key, NEW.place, NEW.failed, NEW.letter,
            NEW.parked_at;
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION seaway_unhandled_told() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format(
            'DELETE FROM %I.seaway_parked WHERE consumer = $1 AND event_id = $2', TG_TABLE_SCHEMA
        ) USING OLD.consumer, OLD.event_id;
    ELSIF NEW.state = 'waiting' THEN
        EXECUTE format(
            'INSERT INTO %I.seaway_parked
                (consumer, event_id, ordering_key, place, failed, letter, parked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (consumer, event_id) DO UPDATE SET failed = excluded.failed,
                letter = excluded.letter', TG_TABLE_SCHEMA
        ) USING NEW.consumer, NEW.event_id, NEW.ordering_key, NEW.place, NEW.failed, NEW.letter,
            NEW.noted_at;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER seaway_parked_told AFTER INSERT OR UPDATE OR DELETE ON seaway_parked
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION seaway_parked_told();
CREATE TRIGGER seaway_unhandled_told AFTER INSERT OR UPDATE OR DELETE ON seaway_unhandled
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION seaway_unhandled_told();

INSERT INTO seaway_unhandled
    (consumer, event_id, state, ordering_key, place, failed, letter, noted_at)
SELECT consumer, event_id, 'waiting', ordering_key, place, failed, letter, parked_at
FROM seaway_parked;
