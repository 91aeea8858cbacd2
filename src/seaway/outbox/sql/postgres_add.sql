INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers, added_at)
SELECT e.event_id::uuid, e.subject, e.ordering_key, e.payload, e.headers::json,
       timestamptz 'epoch' + e.added_at * interval '1 microsecond'
FROM unnest(CAST($1 AS text[]), CAST($2 AS text[]), CAST($3 AS text[]),
            CAST($4 AS bytea[]), CAST($5 AS text[]), CAST($6 AS bigint[]))
     AS e (event_id, subject, ordering_key, payload, headers, added_at)
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id::text
