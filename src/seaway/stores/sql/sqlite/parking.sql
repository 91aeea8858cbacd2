-- name: parked_keys
SELECT k.value FROM json_each(:keys) k
WHERE EXISTS (
    SELECT 1 FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = k.value AND w.state = 'waiting'
)

-- name: standing
WITH first AS (
    SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at
    FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = :key AND w.state = 'waiting' AND NOT EXISTS (
        SELECT 1 FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
    )
    ORDER BY w.place, w.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, noted_at
    FROM seaway_unhandled
    WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'
)
SELECT f.*, EXISTS (
    SELECT 1 FROM seaway_inbox WHERE consumer = :consumer AND event_id = :event_id
) FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_unhandled (consumer, event_id, state, ordering_key, place, failed, noted_at)
VALUES (:consumer, :event_id, 'waiting', :key, :place, :failed, :now)
ON CONFLICT (consumer, event_id) DO UPDATE
SET state = 'waiting', tries = 0, failed = excluded.failed, letter = NULL,
    ordering_key = coalesce(ordering_key, excluded.ordering_key),
    place = coalesce(place, excluded.place),
    noted_at = CASE WHEN state = 'waiting' THEN noted_at ELSE excluded.noted_at END

-- name: release
DELETE FROM seaway_unhandled
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: set_letter
UPDATE seaway_unhandled SET letter = :letter
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'

-- name: heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_unhandled
    WHERE consumer = :consumer AND state = 'waiting'
    UNION ALL
    SELECT (
        SELECT min(w.ordering_key) FROM seaway_unhandled w
        WHERE w.consumer = :consumer AND w.ordering_key > keys.ordering_key
            AND w.state = 'waiting'
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at, EXISTS (
    SELECT 1 FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
)
FROM keys JOIN seaway_unhandled w ON w.consumer = :consumer AND w.event_id = (
    SELECT f.event_id FROM seaway_unhandled f
    WHERE f.consumer = :consumer AND f.ordering_key = keys.ordering_key AND f.state = 'waiting'
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY w.ordering_key

-- name: drop
DELETE FROM seaway_unhandled
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting' AND letter IS :letter
