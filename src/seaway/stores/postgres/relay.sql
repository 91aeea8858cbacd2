-- name: outbox
SELECT to_regclass($1)::oid::integer

-- name: take
-- The shared lock is held by whoever publishes or would like to: nobody divides the keys anew
-- meanwhile, and the others can count. A division that this statement does not see yet makes its
-- claims come back empty.
WITH joined AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock_shared($1::integer, -1) AS done
), layout AS MATERIALIZED (
    SELECT r.shards, r.releases, CASE WHEN r.shards = 1 THEN 1 ELSE (
        SELECT greatest(1, count(*))::integer FROM pg_locks k
        WHERE k.locktype = 'advisory' AND k.granted AND k.mode = 'ShareLock'
          AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND k.classid = $1::integer::oid AND k.objid = (-1)::integer::oid AND k.objsubid = 2
    ) END AS relays
    FROM joined j LEFT JOIN seaway_relay r ON true
    WHERE j.done
)
SELECT l.shards, l.releases, t.shard
FROM layout l LEFT JOIN LATERAL (
    SELECT s.shard
    FROM (SELECT (n + $2::integer) % l.shards AS shard FROM generate_series(0, l.shards - 1) n) s
    WHERE pg_try_advisory_xact_lock($1::integer, s.shard)
    LIMIT (l.shards + l.relays - 1) / l.relays
) t ON true

-- name: hold
-- What is locked from here on can be let go of while the shards are held.
SAVEPOINT claims

-- name: let_go
ROLLBACK TO SAVEPOINT claims

-- name: mark
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
       CASE WHEN p.is_called THEN p.last_value ELSE 0 END,
       EXISTS (SELECT FROM seaway_outbox o WHERE o.parked_at IS NOT NULL)
FROM seaway_outbox_position p

-- name: claim
-- Nothing once a parked event was released: it may lie below the floor, and must not be overtaken.
-- Nothing either once the keys were divided anew. Times are clamped to Python's range.
SELECT o.position, o.event_id::text, o.subject, o.payload, o.headers::text,
       greatest(least(o.added_at, '9999-12-30Z'), '0001-01-02Z'), o.attempts, o.last_error, o.parked_at,
       (hashtextextended(o.ordering_key, 0) & 2147483647) % $5::integer
FROM seaway_outbox o
WHERE o.position > $1
  AND o.parked_at IS NULL
  AND o.position NOT IN (SELECT unnest($2::text::bigint[]))
  AND o.ordering_key <> ALL ($3::text[])
  AND ($4::integer[] IS NULL
       OR ((hashtextextended(o.ordering_key, 0) & 2147483647) % $5::integer) = ANY ($4))
  AND (NOT $6::boolean OR o.position < coalesce(
      (SELECT min(q.position) FROM seaway_outbox q
       WHERE q.parked_at IS NOT NULL AND q.ordering_key = o.ordering_key), o.position + 1))
  AND (SELECT r.releases FROM seaway_relay r WHERE r.shards = $5) = $7
ORDER BY o.position
LIMIT $8

-- name: find
-- Unordered: with sorting off, an order would be had by reading the whole outbox along its key.
SELECT o.position, o.event_id::text, o.subject, o.payload, o.headers::text,
       greatest(least(o.added_at, '9999-12-30Z'), '0001-01-02Z'), o.attempts, o.last_error, o.parked_at, 0
FROM seaway_outbox o
WHERE o.event_id = ANY ($1::uuid[])

-- name: waiting
SELECT EXISTS (
    SELECT FROM seaway_outbox o
    WHERE o.position > $1
      AND o.parked_at IS NULL
      AND ($2::integer[] IS NULL
           OR ((hashtextextended(o.ordering_key, 0) & 2147483647) % $3::integer) = ANY ($2))
      AND (NOT $4::boolean OR o.position < coalesce(
          (SELECT min(q.position) FROM seaway_outbox q
           WHERE q.parked_at IS NOT NULL AND q.ordering_key = o.ordering_key), o.position + 1))
)

-- name: settle
-- Gives its own transaction's id: whoever was given a position before had a lower one.
-- Most events start a chain, and are their own correlation: that is seen without reading the JSON.
WITH settled AS (
    DELETE FROM seaway_outbox o
    USING unnest($1::text::bigint[], $2::text::bigint[]) AS g (position, stream_seq)
    WHERE o.position = g.position
    RETURNING o.position, o.event_id, CASE
        WHEN strpos(o.headers::text, '"X-Correlation-Id":"' || o.event_id::text || '"') = 0
        THEN nullif(o.headers ->> 'X-Correlation-Id', o.event_id::text)
    END AS correlation_id, o.subject, o.ordering_key, o.payload, o.headers, o.added_at, o.attempts,
    g.stream_seq
), kept AS (
    INSERT INTO seaway_sent (
        position, event_id, correlation_id, subject, ordering_key, payload, headers, added_at,
        attempts, stream, stream_seq, sent_at
    )
    SELECT s.position, s.event_id, s.correlation_id, s.subject, s.ordering_key, s.payload,
           s.headers, s.added_at, s.attempts, $3, s.stream_seq, now()
    FROM settled s
)
SELECT pg_current_xact_id()::text::bigint

-- name: settle_and_forget
WITH settled AS (DELETE FROM seaway_outbox o WHERE o.position = ANY ($1::text::bigint[]))
SELECT pg_current_xact_id()::text::bigint

-- name: fail
-- Counts an attempt once, however often it is recorded.
UPDATE seaway_outbox
SET attempts = $2 + 1, last_error = $3, parked_at = CASE WHEN $4::boolean THEN clock_timestamp() END
WHERE position = $1 AND attempts = $2

-- name: last_sent
SELECT s.event_id::text, s.stream_seq FROM seaway_sent s
WHERE s.stream = $1 AND s.stream_seq BETWEEN 1 AND $4
  AND ($2::integer[] IS NULL OR ((hashtextextended(s.ordering_key, 0) & 2147483647) % $3::integer) = ANY ($2))
ORDER BY s.stream_seq DESC LIMIT 1

-- name: first_sent
SELECT min(stream_seq) FROM seaway_sent WHERE stream = $1 AND stream_seq > 0

-- name: sent_streams
-- One look into the index for each of them, however many events they have. What was given up has
-- the reason there, any number of them.
WITH RECURSIVE streams (stream) AS (
    SELECT min(s.stream) FROM seaway_sent s WHERE s.stream_seq <> -1
    UNION ALL
    SELECT (
        SELECT min(s.stream) FROM seaway_sent s
        WHERE s.stream > streams.stream AND s.stream_seq <> -1
    ) FROM streams WHERE streams.stream IS NOT NULL
)
SELECT stream FROM streams WHERE stream IS NOT NULL

-- name: lose
WITH lost AS (
    UPDATE seaway_sent s SET stream_seq = -2 - s.stream_seq
    WHERE s.stream = $1 AND s.stream_seq > $2
    RETURNING -2 - s.stream_seq AS place
)
SELECT count(*), coalesce(min(place), 0), coalesce(max(place), 0) FROM lost

-- name: lost_since
SELECT min(s.sent_at) FROM seaway_sent s
WHERE s.stream = $1 AND s.stream_seq <= -2
  AND ($2::integer[] IS NULL OR ((hashtextextended(s.ordering_key, 0) & 2147483647) % $3::integer) = ANY ($2))

-- name: lost
SELECT s.position, s.event_id::text, s.subject, s.payload, s.headers::text,
       greatest(least(s.added_at, '9999-12-30Z'), '0001-01-02Z'), s.attempts, NULL::text,
       NULL::timestamptz, 0, s.stream, s.stream_seq
FROM seaway_sent s
WHERE s.stream = $1 AND s.stream_seq <= -2
  AND ($2::integer[] IS NULL OR ((hashtextextended(s.ordering_key, 0) & 2147483647) % $3::integer) = ANY ($2))
ORDER BY s.position LIMIT $4

-- name: find_lost
SELECT s.position, s.event_id::text, s.subject, s.payload, s.headers::text,
       greatest(least(s.added_at, '9999-12-30Z'), '0001-01-02Z'), s.attempts, NULL::text,
       NULL::timestamptz, 0, s.stream, s.stream_seq
FROM seaway_sent s
WHERE s.event_id = ANY ($4::uuid[]) AND s.stream = $1 AND s.stream_seq <= -2
  AND ($2::integer[] IS NULL OR ((hashtextextended(s.ordering_key, 0) & 2147483647) % $3::integer) = ANY ($2))

-- name: heal
UPDATE seaway_sent s SET stream = g.stream, stream_seq = g.stream_seq,
    healed_at = CASE WHEN $4::boolean THEN clock_timestamp() ELSE s.healed_at END
FROM unnest($1::uuid[], $2::text[], $3::text::bigint[]) AS g (event_id, stream, stream_seq)
WHERE s.event_id = g.event_id AND s.stream_seq <= -2

-- name: divided
SELECT FROM seaway_relay WHERE shards = $1

-- name: divide
-- Waits for every lease to end, and holds off new ones until it is committed.
SELECT pg_advisory_xact_lock(to_regclass($1)::oid::integer, -1)

-- name: reshard
UPDATE seaway_relay SET shards = $1 WHERE shards <> $1
