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
