-- NULL for an id that was sent: the column takes none.
INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers, added_at)
SELECT nullif(column1, (SELECT event_id FROM seaway_sent WHERE event_id = column1 LIMIT 1)),
       column2, column3, column4, column5, column6
FROM (VALUES (?, ?, ?, ?, ?, ?))
