INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers)
SELECT e.event_id::uuid, e.subject, e.ordering_key, e.payload, e.headers::json
FROM {rows} AS e (event_id, subject, ordering_key, payload, headers, added_at)
{unless_sent}
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id::text
