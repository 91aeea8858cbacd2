INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers, added_at)
VALUES (?, ?, ?, ?, ?, ?)
