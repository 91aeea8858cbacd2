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

-- name: sent
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL::text,
       NULL::timestamptz, 0, stream, stream_seq
FROM seaway_sent
WHERE ($1::uuid[] IS NULL OR event_id = ANY ($1))
  AND ($2::text IS NULL OR correlation_id = $2 OR event_id = ANY ($4::uuid[]))
ORDER BY sent_at DESC, position DESC
LIMIT $3
