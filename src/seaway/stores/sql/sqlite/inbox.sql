-- name: claim
INSERT INTO seaway_inbox (consumer, event_id, processed_at) VALUES (:consumer, :event_id, :now)
ON CONFLICT (event_id, consumer) DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id, processed_at)
SELECT :consumer, value, :now FROM json_each(:event_ids) WHERE true
ON CONFLICT (event_id, consumer) DO NOTHING RETURNING event_id

-- name: trying
INSERT INTO seaway_unhandled (consumer, event_id, state, tries, noted_at)
SELECT :consumer, value, 'trying', 1, :now FROM json_each(:event_ids) WHERE true
ON CONFLICT (consumer, event_id) DO UPDATE SET tries = tries + 1,
    noted_at = CASE WHEN state = 'trying' THEN excluded.noted_at ELSE noted_at END
RETURNING event_id, tries

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

-- name: forget_tried
DELETE FROM seaway_unhandled
WHERE (consumer, event_id) IN (
    SELECT consumer, event_id FROM seaway_unhandled
    WHERE state = 'trying' AND noted_at < :before LIMIT :limit
)

-- name: overdue_tried
SELECT count(*) FROM seaway_unhandled WHERE state = 'trying' AND noted_at < :before
