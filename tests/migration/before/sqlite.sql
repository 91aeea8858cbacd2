-- What the version before 0005 says to its tables: frozen, for test_side_by_side.
-- name: claim
INSERT INTO seaway_inbox (consumer, event_id, processed_at) VALUES (:consumer, :event_id, :now)
ON CONFLICT (event_id, consumer) DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id, processed_at)
SELECT :consumer, value, :now FROM json_each(:event_ids) WHERE true
ON CONFLICT (event_id, consumer) DO NOTHING RETURNING event_id

-- name: claimed
SELECT event_id FROM seaway_inbox
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: processed
SELECT consumer, processed_at FROM seaway_inbox WHERE event_id = :event_id ORDER BY consumer

-- name: forget
DELETE FROM seaway_inbox
WHERE (event_id, consumer) IN (
    SELECT event_id, consumer FROM seaway_inbox WHERE processed_at < :before LIMIT :limit
)

-- name: overdue
SELECT count(*) FROM seaway_inbox WHERE processed_at < :before

-- name: parked_keys
SELECT k.value FROM json_each(:keys) k
WHERE EXISTS (
    SELECT 1 FROM seaway_parked p WHERE p.consumer = :consumer AND p.ordering_key = k.value
)

-- name: standing
WITH first AS (
    SELECT p.event_id, p.ordering_key, p.place, p.failed, p.letter, p.parked_at
    FROM seaway_parked p
    WHERE p.consumer = :consumer AND p.ordering_key = :key AND NOT EXISTS (
        SELECT 1 FROM seaway_inbox i WHERE i.consumer = p.consumer AND i.event_id = p.event_id
    )
    ORDER BY p.place, p.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, parked_at
    FROM seaway_parked WHERE consumer = :consumer AND event_id = :event_id
)
SELECT f.*, EXISTS (
    SELECT 1 FROM seaway_inbox WHERE consumer = :consumer AND event_id = :event_id
) FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_parked (consumer, event_id, ordering_key, place, failed, parked_at)
VALUES (:consumer, :event_id, :key, :place, :failed, :now)
ON CONFLICT (consumer, event_id) DO UPDATE SET failed = excluded.failed, letter = NULL

-- name: release
DELETE FROM seaway_parked WHERE consumer = :consumer AND event_id = :event_id

-- name: set_letter
UPDATE seaway_parked SET letter = :letter WHERE consumer = :consumer AND event_id = :event_id

-- name: heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_parked WHERE consumer = :consumer
    UNION ALL
    SELECT (
        SELECT min(p.ordering_key) FROM seaway_parked p
        WHERE p.consumer = :consumer AND p.ordering_key > keys.ordering_key
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT p.event_id, p.ordering_key, p.place, p.failed, p.letter, p.parked_at, EXISTS (
    SELECT 1 FROM seaway_inbox i WHERE i.consumer = p.consumer AND i.event_id = p.event_id
)
FROM keys JOIN seaway_parked p ON p.consumer = :consumer AND p.event_id = (
    SELECT f.event_id FROM seaway_parked f
    WHERE f.consumer = :consumer AND f.ordering_key = keys.ordering_key
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY p.ordering_key

-- name: drop
DELETE FROM seaway_parked
WHERE consumer = :consumer AND event_id = :event_id AND letter IS :letter
