-- name: parked_keys
SELECT k FROM unnest(CAST($2 AS text[])) k
WHERE EXISTS (
    SELECT FROM seaway_unhandled w
    WHERE w.consumer = $1 AND w.ordering_key = k AND w.state = 'waiting'
)

-- name: standing
WITH first AS (
    SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at
    FROM seaway_unhandled w
    WHERE w.consumer = $1 AND w.ordering_key = $3 AND w.state = 'waiting' AND NOT EXISTS (
        SELECT FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
    )
    ORDER BY w.place, w.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, noted_at
    FROM seaway_unhandled WHERE consumer = $1 AND event_id = $2 AND state = 'waiting'
)
SELECT f.event_id, f.ordering_key, f.place, f.failed, f.letter,
       (extract(epoch FROM f.noted_at) * 1000000)::bigint,
       EXISTS (SELECT FROM seaway_inbox WHERE consumer = $1 AND event_id = $2)
FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_unhandled AS u (consumer, event_id, state, ordering_key, place, failed)
VALUES ($1, $2, 'waiting', $3, $4, $5)
ON CONFLICT (consumer, event_id) DO UPDATE
SET state = 'waiting', tries = 0, failed = excluded.failed, letter = NULL,
    ordering_key = coalesce(u.ordering_key, excluded.ordering_key),
    place = coalesce(u.place, excluded.place),
    noted_at = CASE WHEN u.state = 'waiting' THEN u.noted_at ELSE excluded.noted_at END

-- name: release
DELETE FROM seaway_unhandled WHERE consumer = $1 AND event_id = ANY (CAST($2 AS text[]))

-- name: set_letter
UPDATE seaway_unhandled SET letter = $3
WHERE consumer = $1 AND event_id = $2 AND state = 'waiting'

-- name: heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_unhandled WHERE consumer = $1 AND state = 'waiting'
    UNION ALL
    SELECT (
        SELECT min(w.ordering_key) FROM seaway_unhandled w
        WHERE w.consumer = $1 AND w.ordering_key > keys.ordering_key AND w.state = 'waiting'
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter,
       (extract(epoch FROM w.noted_at) * 1000000)::bigint,
       EXISTS (
           SELECT FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
       )
FROM keys JOIN seaway_unhandled w ON w.consumer = $1 AND w.event_id = (
    SELECT f.event_id FROM seaway_unhandled f
    WHERE f.consumer = $1 AND f.ordering_key = keys.ordering_key AND f.state = 'waiting'
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY w.ordering_key

-- name: drop
DELETE FROM seaway_unhandled
WHERE consumer = $1 AND event_id = $2 AND state = 'waiting' AND letter IS NOT DISTINCT FROM $3
