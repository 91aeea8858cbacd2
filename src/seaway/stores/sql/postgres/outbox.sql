-- name: now
SELECT clock_timestamp()

-- name: backlog
SELECT (SELECT count(*) FROM seaway_outbox),
       (SELECT count(*) FROM seaway_outbox WHERE parked_at IS NOT NULL),
       (SELECT clock_timestamp() - greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z')
        FROM seaway_outbox WHERE parked_at IS NULL ORDER BY position LIMIT 1),
       pg_stat_get_dead_tuples(to_regclass($1)),
       coalesce((SELECT shards FROM seaway_relay), 1),
       (SELECT sum(pg_stat_get_dead_tuples(relid)) FROM pg_partition_tree(to_regclass($2))
        WHERE isleaf)::bigint,
       (SELECT sum(pg_stat_get_live_tuples(relid)) FROM pg_partition_tree(to_regclass($3))
        WHERE isleaf)::bigint,
       (SELECT sum(pg_stat_get_dead_tuples(relid)) FROM pg_partition_tree(to_regclass($3))
        WHERE isleaf)::bigint,
       coalesce((SELECT EXISTS (SELECT FROM seaway_outbox p
                  WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key
                    AND p.position < o.position)
                 FROM seaway_outbox o WHERE o.parked_at IS NULL ORDER BY o.position LIMIT 1), false)

-- name: entries
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, last_error,
       parked_at, 0
FROM seaway_outbox
WHERE ($1::uuid[] IS NULL OR event_id = ANY ($1))
  AND ($2::boolean IS NULL OR (parked_at IS NOT NULL) = $2)
ORDER BY position
LIMIT $3

-- name: unpark
UPDATE seaway_outbox
SET parked_at = NULL, attempts = 0
WHERE parked_at IS NOT NULL AND ($1::uuid[] IS NULL OR event_id = ANY ($1))

-- name: release
UPDATE seaway_relay SET releases = releases + 1

-- name: discard
-- What another program wrote there for headers may be no object.
WITH given_up AS (
    DELETE FROM seaway_outbox o
    WHERE o.parked_at IS NOT NULL AND o.event_id = ANY ($1::uuid[])
    RETURNING o.*
)
INSERT INTO seaway_sent (
    position, event_id, correlation_id, subject, ordering_key, payload, headers, added_at,
    attempts, stream, stream_seq, sent_at
)
SELECT g.position, g.event_id,
       CASE WHEN json_typeof(g.headers) = 'object'
            THEN nullif(g.headers ->> 'X-Correlation-Id', g.event_id::text) END,
       g.subject, g.ordering_key, g.payload, g.headers, g.added_at, g.attempts,
       $2::text || coalesce(' (its error: ' || g.last_error || ')', ''), -1, now()
FROM given_up g
RETURNING event_id::text

-- name: discarded
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL::text,
       NULL::timestamptz, 0, stream, stream_seq
FROM seaway_sent
WHERE stream_seq = -1
ORDER BY sent_at DESC, position DESC
LIMIT $1

-- name: sent
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL::text,
       NULL::timestamptz, 0, stream, stream_seq
FROM seaway_sent
WHERE ($1::uuid[] IS NULL OR event_id = ANY ($1))
  AND ($2::text IS NULL OR correlation_id = $2 OR event_id = ANY ($4::uuid[]))
ORDER BY sent_at DESC, position DESC
LIMIT $3
