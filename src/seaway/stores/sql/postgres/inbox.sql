-- Times are given as microseconds since 1970: drivers read the server's own form under some
-- DateStyles only.
-- name: claim
INSERT INTO seaway_inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id) SELECT $1, unnest(CAST($2 AS text[]))
ON CONFLICT DO NOTHING RETURNING event_id

-- name: trying
INSERT INTO seaway_unhandled AS u (consumer, event_id, state, tries)
SELECT $1, unnest(CAST($2 AS text[])), 'trying', 1
ON CONFLICT (consumer, event_id) DO UPDATE SET tries = u.tries + 1,
    noted_at = CASE WHEN u.state = 'trying' THEN excluded.noted_at ELSE u.noted_at END
RETURNING event_id, tries

-- name: claimed
SELECT event_id FROM seaway_inbox WHERE consumer = $1 AND event_id = ANY (CAST($2 AS text[]))

-- name: processed
SELECT consumer, (extract(epoch FROM processed_at) * 1000000)::bigint FROM seaway_inbox WHERE event_id = $1 ORDER BY consumer

-- name: forget_tried
DELETE FROM seaway_unhandled WHERE state = 'trying' AND noted_at < $1

-- name: overdue_tried
SELECT count(*) FROM seaway_unhandled WHERE state = 'trying' AND noted_at < $1
