-- What the version before 0005 says to its tables: frozen, for test_side_by_side.
-- name: claim
INSERT INTO seaway_inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id) SELECT $1, unnest(CAST($2 AS text[]))
ON CONFLICT DO NOTHING RETURNING event_id

-- name: claimed
SELECT event_id FROM seaway_inbox WHERE consumer = $1 AND event_id = ANY (CAST($2 AS text[]))

-- name: processed
SELECT consumer, (extract(epoch FROM processed_at) * 1000000)::bigint FROM seaway_inbox WHERE event_id = $1 ORDER BY consumer

-- name: parked_keys
SELECT k FROM unnest(CAST($2 AS text[])) k
WHERE EXISTS (SELECT FROM seaway_parked p WHERE p.consumer = $1 AND p.ordering_key = k)

-- name: standing
WITH first AS (
    SELECT p.event_id, p.ordering_key, p.place, p.failed, p.letter, p.parked_at
    FROM seaway_parked p
    WHERE p.consumer = $1 AND p.ordering_key = $3 AND NOT EXISTS (
        SELECT FROM seaway_inbox i WHERE i.consumer = p.consumer AND i.event_id = p.event_id
    )
    ORDER BY p.place, p.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, parked_at
    FROM seaway_parked WHERE consumer = $1 AND event_id = $2
)
SELECT f.event_id, f.ordering_key, f.place, f.failed, f.letter,
       (extract(epoch FROM f.parked_at) * 1000000)::bigint,
       EXISTS (SELECT FROM seaway_inbox WHERE consumer = $1 AND event_id = $2)
FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_parked (consumer, event_id, ordering_key, place, failed)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (consumer, event_id) DO UPDATE SET failed = excluded.failed, letter = NULL

-- name: release
DELETE FROM seaway_parked WHERE consumer = $1 AND event_id = $2

-- name: set_letter
UPDATE seaway_parked SET letter = $3 WHERE consumer = $1 AND event_id = $2

-- name: heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_parked WHERE consumer = $1
    UNION ALL
    SELECT (
        SELECT min(p.ordering_key) FROM seaway_parked p
        WHERE p.consumer = $1 AND p.ordering_key > keys.ordering_key
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT p.event_id, p.ordering_key, p.place, p.failed, p.letter,
       (extract(epoch FROM p.parked_at) * 1000000)::bigint,
       EXISTS (
           SELECT FROM seaway_inbox i WHERE i.consumer = p.consumer AND i.event_id = p.event_id
       )
FROM keys JOIN seaway_parked p ON p.consumer = $1 AND p.event_id = (
    SELECT f.event_id FROM seaway_parked f
    WHERE f.consumer = $1 AND f.ordering_key = keys.ordering_key
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY p.ordering_key

-- name: drop
DELETE FROM seaway_parked
WHERE consumer = $1 AND event_id = $2 AND letter IS NOT DISTINCT FROM $3
