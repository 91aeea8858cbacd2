-- name: claim
INSERT INTO seaway_inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: processed
SELECT consumer, processed_at FROM seaway_inbox WHERE event_id = $1 ORDER BY consumer
