-- The statements of a store on PostgreSQL. Of waiting events, times are given as microseconds since 1970:
-- drivers read the server's own form under some DateStyles only.

-- ------------------------------------------------------------ what Outbox.add writes

-- name: add
INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers)
SELECT e.event_id::uuid, e.subject, e.ordering_key, e.payload, e.headers::json
FROM {rows} AS e (event_id, subject, ordering_key, payload, headers, added_at)
{unless_sent}
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id::text

-- name: unless_sent
-- Row by row: a join, which NOT EXISTS becomes, would not keep the rows' order.
WHERE (SELECT s.event_id FROM seaway_sent s WHERE s.event_id = CAST(e.event_id AS uuid) LIMIT 1) IS NULL

-- name: notifying
WITH added AS ({add}), told AS (SELECT pg_notify('seaway_outbox', ''))
SELECT added.event_id FROM added, told

-- name: take_back
DELETE FROM seaway_outbox WHERE event_id = ANY (CAST($1 AS uuid[]))

-- ------------------------------------------------------------ the outbox

-- name: now
SELECT clock_timestamp()

-- name: vitals
-- A walsender's or another database's snapshot is told of where it has written: relays wait for that.
-- What this user may not see of another has no xact_start.
WITH open AS (
    SELECT a.pid, a.application_name || coalesce(' (' || a.usename || ')', '') AS who,
           coalesce(a.state, '') AS state, clock_timestamp() - a.xact_start AS age,
           a.backend_xid IS NOT NULL AS writes
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
      AND (a.backend_xid IS NOT NULL
           OR (a.backend_xmin IS NOT NULL AND a.datname = current_database()))
    UNION ALL
    SELECT 0, 'prepared transaction ' || p.gid || ' (' || p.owner || ')', 'prepared',
           clock_timestamp() - p.prepared, true
    FROM pg_prepared_xacts p
), oldest AS (
    SELECT * FROM open WHERE age IS NOT NULL ORDER BY age DESC LIMIT 1
)
SELECT clock_timestamp(),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer,
       (SELECT count(*) FROM open WHERE age IS NULL),
       o.pid, o.who, o.state, o.age, o.writes
FROM (SELECT) here LEFT JOIN oldest o ON true

-- name: backlog
SELECT (SELECT count(*) FROM seaway_outbox),
       (SELECT count(*) FROM seaway_outbox WHERE parked_at IS NOT NULL),
       (SELECT clock_timestamp() - greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z')
        FROM seaway_outbox WHERE parked_at IS NULL ORDER BY position LIMIT 1),
       pg_stat_get_dead_tuples(to_regclass(:outbox)),
       coalesce((SELECT shards FROM seaway_relay), 1),
       (SELECT sum(pg_stat_get_dead_tuples(relid)) FROM pg_partition_tree(to_regclass(:sent))
        WHERE isleaf)::bigint,
       (SELECT sum(pg_stat_get_live_tuples(relid)) FROM pg_partition_tree(to_regclass(:inbox))
        WHERE isleaf)::bigint,
       (SELECT sum(pg_stat_get_dead_tuples(relid)) FROM pg_partition_tree(to_regclass(:inbox))
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
WHERE (:event_ids::uuid[] IS NULL OR event_id = ANY (:event_ids))
  AND (:parked::boolean IS NULL OR (parked_at IS NOT NULL) = :parked)
ORDER BY position
LIMIT :limit

-- name: unpark
UPDATE seaway_outbox
SET parked_at = NULL, attempts = 0
WHERE parked_at IS NOT NULL AND (:event_ids::uuid[] IS NULL OR event_id = ANY (:event_ids))

-- name: unparked
UPDATE seaway_relay SET releases = releases + 1

-- name: discard
-- What another program wrote there for headers may be no object.
WITH given_up AS (
    DELETE FROM seaway_outbox o
    WHERE o.parked_at IS NOT NULL AND o.event_id = ANY (:event_ids::uuid[])
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
       :reason::text || coalesce(' (its error: ' || g.last_error || ')', ''), -1, now()
FROM given_up g
RETURNING event_id::text

-- name: discarded
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL::text,
       NULL::timestamptz, 0, stream, stream_seq
FROM seaway_sent
WHERE stream_seq = -1
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: sent
SELECT position, event_id::text, subject, payload, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL::text,
       NULL::timestamptz, 0, stream, stream_seq
FROM seaway_sent
WHERE (:event_ids::uuid[] IS NULL OR event_id = ANY (:event_ids))
  AND (:correlation_id::text IS NULL OR correlation_id = :correlation_id OR event_id = ANY (:first::uuid[]))
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: newest_place
SELECT stream_seq, event_id::text, sent_at FROM seaway_sent
WHERE stream = :stream AND stream_seq > 0 ORDER BY stream_seq DESC LIMIT 1

-- name: place_before
-- Of one stream, by its index; in the days before then alone, where there are days.
SELECT stream_seq, event_id::text, sent_at FROM seaway_sent
WHERE stream = :stream AND stream_seq > 0 AND sent_at < :before AND healed_at IS NULL LIMIT 1

-- name: waits_to_heal
SELECT count(*) FROM seaway_sent WHERE stream = :stream AND stream_seq <= -2

-- ------------------------------------------------------------ the inbox

-- name: claim
INSERT INTO seaway_inbox (consumer, event_id) VALUES (:consumer, :event_id) ON CONFLICT DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id) SELECT :consumer, unnest(CAST(:event_ids AS text[]))
ON CONFLICT DO NOTHING RETURNING event_id

-- name: trying
INSERT INTO seaway_unhandled AS u (consumer, event_id, state, tries)
SELECT :consumer, unnest(CAST(:event_ids AS text[])), 'trying', 1
ON CONFLICT (consumer, event_id) DO UPDATE SET tries = u.tries + 1,
    noted_at = CASE WHEN u.state = 'trying' THEN excluded.noted_at ELSE u.noted_at END
RETURNING event_id, tries

-- name: unclaim
DELETE FROM seaway_inbox WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS text[]))

-- name: check_deferred
SET CONSTRAINTS ALL IMMEDIATE

-- name: claimed
SELECT event_id FROM seaway_inbox WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS text[]))

-- name: inbox_rows
SELECT event_id FROM seaway_inbox
WHERE consumer = :consumer AND event_id > :after AND event_id < :before
ORDER BY event_id LIMIT :limit

-- name: processed
SELECT consumer, (extract(epoch FROM processed_at) * 1000000)::bigint FROM seaway_inbox WHERE event_id = :event_id ORDER BY consumer

-- name: forget_tried
DELETE FROM seaway_unhandled WHERE state = 'trying' AND noted_at < :before

-- name: overdue_tried
SELECT count(*) FROM seaway_unhandled WHERE state = 'trying' AND noted_at < :before

-- ------------------------------------------------------------ events that wait

-- name: parked_keys
SELECT k FROM unnest(CAST(:keys AS text[])) k
WHERE EXISTS (
    SELECT FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = k AND w.state = 'waiting'
)

-- name: standing
WITH first AS (
    SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at
    FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = :key AND w.state = 'waiting' AND NOT EXISTS (
        SELECT FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
    )
    ORDER BY w.place, w.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, noted_at
    FROM seaway_unhandled WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'
)
SELECT f.event_id, f.ordering_key, f.place, f.failed, f.letter,
       (extract(epoch FROM f.noted_at) * 1000000)::bigint,
       EXISTS (SELECT FROM seaway_inbox WHERE consumer = :consumer AND event_id = :event_id)
FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_unhandled AS u (consumer, event_id, state, ordering_key, place, failed)
VALUES (:consumer, :event_id, 'waiting', :key, :place, :failed)
ON CONFLICT (consumer, event_id) DO UPDATE
SET state = 'waiting', tries = 0, failed = excluded.failed, letter = NULL,
    ordering_key = coalesce(u.ordering_key, excluded.ordering_key),
    place = coalesce(u.place, excluded.place),
    noted_at = CASE WHEN u.state = 'waiting' THEN u.noted_at ELSE excluded.noted_at END

-- name: release
DELETE FROM seaway_unhandled WHERE consumer = :consumer AND event_id = ANY (CAST(:event_ids AS text[]))

-- name: set_letter
UPDATE seaway_unhandled SET letter = :letter
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'

-- name: parked_heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_unhandled WHERE consumer = :consumer AND state = 'waiting'
    UNION ALL
    SELECT (
        SELECT min(w.ordering_key) FROM seaway_unhandled w
        WHERE w.consumer = :consumer AND w.ordering_key > keys.ordering_key AND w.state = 'waiting'
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter,
       (extract(epoch FROM w.noted_at) * 1000000)::bigint,
       EXISTS (
           SELECT FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
       )
FROM keys JOIN seaway_unhandled w ON w.consumer = :consumer AND w.event_id = (
    SELECT f.event_id FROM seaway_unhandled f
    WHERE f.consumer = :consumer AND f.ordering_key = keys.ordering_key AND f.state = 'waiting'
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY w.ordering_key

-- name: drop_parked
DELETE FROM seaway_unhandled
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting' AND letter IS NOT DISTINCT FROM :letter

-- ------------------------------------------------------------ what became of an event

-- name: kept
SELECT o.position, o.event_id::text, o.subject, o.ordering_key, o.headers::text,
       greatest(least(o.added_at, '9999-12-30Z'), '0001-01-02Z'), o.attempts, o.last_error, o.parked_at,
       CASE WHEN o.parked_at IS NULL THEN (
           SELECT p.event_id::text FROM seaway_outbox p
           WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key AND p.position < o.position
           ORDER BY p.position LIMIT 1
       ) END, NULL::text, 0::bigint, NULL::timestamptz, NULL::timestamptz
FROM seaway_outbox o WHERE o.event_id = ANY (:event_ids::uuid[])
UNION ALL
SELECT position, event_id::text, subject, ordering_key, headers::text,
       greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL, NULL, NULL,
       stream, stream_seq, sent_at, healed_at
FROM seaway_sent WHERE event_id = ANY (:event_ids::uuid[])

-- name: kept_of
-- What another program wrote there for headers may be no object.
SELECT * FROM (
    SELECT o.position, o.event_id::text, o.subject, o.ordering_key, o.headers::text,
           greatest(least(o.added_at, '9999-12-30Z'), '0001-01-02Z'), o.attempts, o.last_error,
           o.parked_at,
           CASE WHEN o.parked_at IS NULL THEN (
               SELECT p.event_id::text FROM seaway_outbox p
               WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key
                 AND p.position < o.position
               ORDER BY p.position LIMIT 1
           ) END, NULL::text, 0::bigint, NULL::timestamptz, NULL::timestamptz
    FROM seaway_outbox o
    WHERE CASE WHEN json_typeof(o.headers) = 'object'
               THEN o.headers ->> 'X-Correlation-Id' END = :correlation_id::text
    UNION ALL
    SELECT position, event_id::text, subject, ordering_key, headers::text,
           greatest(least(added_at, '9999-12-30Z'), '0001-01-02Z'), attempts, NULL, NULL, NULL,
           stream, stream_seq, sent_at, healed_at
    FROM seaway_sent WHERE correlation_id = :correlation_id OR event_id = ANY (:first::uuid[])
) k
WHERE k.position > :after ORDER BY k.position LIMIT :limit

-- name: rows_of
-- A row of a letter begins with its event's id and a colon, which a semicolon follows.
SELECT i.consumer, i.event_id, i.processed_at
FROM unnest(:event_ids::text[]) e JOIN seaway_inbox i ON i.event_id = e
UNION ALL
SELECT i.consumer, i.event_id, i.processed_at
FROM unnest(:event_ids::text[]) e
JOIN seaway_inbox i ON i.event_id > (e || ':') COLLATE "C" AND i.event_id < (e || ';') COLLATE "C"

-- name: unhandled
SELECT u.consumer, u.event_id, u.state = 'waiting', u.tries, u.letter, u.noted_at,
       CASE WHEN u.state = 'waiting' THEN nullif((
           SELECT f.event_id FROM seaway_unhandled f
           WHERE f.consumer = u.consumer AND f.ordering_key = u.ordering_key AND f.state = 'waiting'
           ORDER BY f.place, f.event_id LIMIT 1
       ), u.event_id) END
FROM seaway_unhandled u WHERE u.event_id = ANY (:event_ids::text[])

-- ------------------------------------------------------------ the processes

-- name: forget_process
DELETE FROM seaway_processes
WHERE process = :process OR seen_at < clock_timestamp() - interval '1 day'

-- name: tell
INSERT INTO seaway_processes (process, part, about, reason, since_at)
SELECT :process, n.part, n.about, n.reason, clock_timestamp() - make_interval(secs => n.lasts)
FROM unnest(:parts::text[], :abouts::text[], :reasons::text[], :lasts::float8[]) n (part, about, reason, lasts)

-- name: notices
SELECT part, about, reason, greatest(clock_timestamp() - since_at, interval '0'), process,
       greatest(clock_timestamp() - seen_at, interval '0')
FROM seaway_processes ORDER BY process, part, since_at LIMIT 1000

-- ------------------------------------------------------------ what is noted

-- name: forget_log
DELETE FROM seaway_log WHERE noted_at < clock_timestamp() - interval '400 days'

-- name: note
INSERT INTO seaway_log (noted_by, action, about, detail, seen_at)
SELECT n.noted_by, n.action, n.about, n.detail::json, CASE WHEN :seen::boolean THEN clock_timestamp() END
FROM unnest(:by::text[], :actions::text[], :abouts::text[], :details::text[])
    WITH ORDINALITY n (noted_by, action, about, detail, place)
ORDER BY n.place

-- name: log
SELECT action, about, detail::text, noted_by, entry, noted_at, seen_at
FROM seaway_log
WHERE (:actions::text[] IS NULL OR action = ANY (:actions))
  AND (:entry::bigint IS NULL OR entry = :entry)
  AND (NOT :unseen::boolean OR seen_at IS NULL)
  AND (:naming::text IS NULL OR strpos(detail::text, :naming) > 0)
  AND (:after::bigint IS NULL OR entry < :after)
ORDER BY entry DESC LIMIT :limit

-- name: unseen
SELECT action, about, count(*),
       coalesce(sum(CASE WHEN json_typeof(detail -> 'events') = 'number'
                         THEN (detail -> 'events')::text::numeric END), 0)::bigint,
       max(entry), (array_agg((detail -> 'reason')::text ORDER BY entry DESC))[1]
FROM seaway_log WHERE seen_at IS NULL
GROUP BY action, about ORDER BY action, about

-- name: see
UPDATE seaway_log SET seen_at = clock_timestamp()
WHERE seen_at IS NULL AND (:entries::bigint[] IS NULL OR entry = ANY (:entries))

-- name: places
SELECT part, stream, stream_seq, event_id, stored_at FROM seaway_places
WHERE part = :part ORDER BY stream

-- name: know
INSERT INTO seaway_places (part, stream, stream_seq, event_id, stored_at)
VALUES (:part, :stream, :stream_seq, :event_id, :stored_at)
ON CONFLICT (part, stream) DO UPDATE SET stream_seq = excluded.stream_seq,
    event_id = excluded.event_id, stored_at = excluded.stored_at, noted_at = excluded.noted_at

-- ------------------------------------------------------------ what mending leaves

-- name: forget_run_items
DELETE FROM seaway_run_items WHERE run IN (
    SELECT run FROM seaway_runs WHERE changed_at < clock_timestamp() - interval '400 days'
)

-- name: forget_runs
DELETE FROM seaway_runs WHERE changed_at < clock_timestamp() - interval '400 days'

-- name: begin_run
INSERT INTO seaway_runs (run, kind, about, begun_by, plan, state, progress, begun_at, changed_at, ended_at)
SELECT :run::text, :kind::text, :about::text, :by::text, :plan::json, :state::text, :progress::json,
       n.at, n.at, CASE WHEN :state::text <> 'running' THEN n.at END
FROM (SELECT clock_timestamp() AS at) n
ON CONFLICT (run) DO NOTHING

-- name: change_run
-- Time passes between two changes, whatever the clock says: whoever has looked before knows it.
UPDATE seaway_runs SET
    state = coalesce(:state::text, state),
    progress = coalesce(:progress::json, progress),
    changed_at = greatest(clock_timestamp(), changed_at + interval '1 microsecond'),
    ended_at = CASE WHEN :state::text = 'running' THEN NULL
                    WHEN :state::text IS NULL THEN ended_at ELSE clock_timestamp() END
WHERE run = :run AND (:since::timestamptz IS NULL OR changed_at <= :since::timestamptz)

-- name: runs
SELECT run, kind, about, begun_by, plan::text, state, progress::text, begun_at, changed_at, ended_at
FROM seaway_runs
WHERE (:kind::text IS NULL OR kind = :kind) AND (:run::text IS NULL OR run = :run)
ORDER BY begun_at DESC, run DESC LIMIT :limit

-- name: note_items
INSERT INTO seaway_run_items (run, item, state, event_id, consumer, detail, changed_at)
SELECT :run, n.item, n.state, n.event_id, n.consumer, n.detail, clock_timestamp()
FROM unnest(:items::text[], :states::text[], :event_ids::text[], :consumers::text[], :details::text[])
    n (item, state, event_id, consumer, detail)
ON CONFLICT (run, item) DO UPDATE SET state = excluded.state, event_id = excluded.event_id,
    consumer = excluded.consumer, detail = excluded.detail, changed_at = excluded.changed_at

-- name: run_items
SELECT item, state, event_id, consumer, detail, changed_at FROM seaway_run_items
WHERE run = :run AND item > :after AND (:state::text IS NULL OR state = :state)
ORDER BY item LIMIT :limit

-- name: count_items
SELECT state, count(*) FROM seaway_run_items WHERE run = :run GROUP BY state ORDER BY state

-- name: keep_discarded
INSERT INTO seaway_discarded (
    letter, stored_at, queue, subject, headers, payload, event_id, consumer, holds, behind,
    discarded_by, why, discarded_at, kept_until
)
SELECT :letter::text, :stored_at::timestamptz, :queue::text, :subject::text, :headers::json,
       :payload::bytea, :event_id::text, :consumer::text, :holds::boolean, :behind::integer,
       :by::text, :why::text, n.at, n.at + make_interval(secs => :seconds)
FROM (SELECT clock_timestamp() AS at) n
ON CONFLICT (letter, stored_at) DO UPDATE SET discarded_by = excluded.discarded_by,
    why = excluded.why, discarded_at = excluded.discarded_at, kept_until = excluded.kept_until

-- name: discarded_letters
SELECT letter, stored_at, queue, subject, headers::text, CASE WHEN :payloads::boolean THEN payload END,
       event_id, consumer, holds, behind, discarded_by, why, discarded_at, kept_until
FROM seaway_discarded
WHERE kept_until > clock_timestamp()
  AND (:names::text[] IS NULL OR letter = ANY (:names) OR event_id = ANY (:names))
  AND (:consumer::text IS NULL OR consumer = :consumer)
ORDER BY discarded_at DESC, letter, stored_at LIMIT :limit

-- name: take_discarded
DELETE FROM seaway_discarded WHERE letter = :letter AND stored_at = :stored_at

-- name: forget_discarded
DELETE FROM seaway_discarded WHERE (letter, stored_at) IN (
    SELECT letter, stored_at FROM seaway_discarded WHERE kept_until <= clock_timestamp() LIMIT :limit
)

-- name: overdue_discarded
SELECT count(*) FROM seaway_discarded WHERE kept_until <= clock_timestamp()

-- ------------------------------------------------------------ what is compared

-- name: writes
SELECT EXISTS (SELECT FROM seaway_sent WHERE stream = :stream)
    OR EXISTS (SELECT FROM seaway_outbox WHERE left(subject, length(:prefix::text)) = :prefix)

-- name: last_place
SELECT coalesce(greatest(max(stream_seq), -2 - min(stream_seq)), 0) FROM seaway_sent WHERE stream = :stream

-- name: tally_sent
-- A place that its stream has lost is stored as -2 - place. The hash is as in databases/tallies.py.
SELECT s.minute, count(*),
       sum(('x' || encode(substr(sha256(convert_to(s.event_id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint),
       min(s.place), max(s.place)
FROM (
    SELECT r.event_id, CASE WHEN r.stream_seq < 0 THEN -2 - r.stream_seq ELSE r.stream_seq END AS place,
           CASE WHEN r.at IS NULL THEN -1 WHEN r.at < :since::bigint THEN -2
                WHEN r.at >= :until::bigint THEN :later::bigint ELSE r.at / 60000 END AS minute
    FROM (
        SELECT event_id::text AS event_id, stream_seq,
               CASE WHEN substr(event_id::text, 15, 1) = '7'
                    THEN ('x' || substr(event_id::text, 1, 8) || substr(event_id::text, 10, 4))::bit(48)::bigint
               END AS at
        FROM seaway_sent
        WHERE stream = :stream AND (stream_seq BETWEEN :first::bigint AND :last::bigint
                                    OR stream_seq BETWEEN -2 - :last::bigint AND -2 - :first::bigint)
    ) r
) s
WHERE s.minute > -2
GROUP BY s.minute

-- name: sent_places
SELECT event_id::text, stream_seq
FROM seaway_sent
WHERE stream = :stream AND (stream_seq BETWEEN :first::bigint AND :last::bigint
                            OR stream_seq BETWEEN -2 - :last::bigint AND -2 - :first::bigint)
ORDER BY CASE WHEN stream_seq < 0 THEN -2 - stream_seq ELSE stream_seq END

-- name: committed
SELECT event_id::text, '', 0 FROM seaway_outbox WHERE event_id = ANY (:event_ids::uuid[])
UNION ALL
SELECT event_id::text, stream, stream_seq FROM seaway_sent WHERE event_id = ANY (:event_ids::uuid[])

-- name: moved
UPDATE seaway_sent SET stream_seq = :new, healed_at = clock_timestamp()
WHERE event_id = ANY (:event_ids::uuid[]) AND stream = :stream AND stream_seq = :old

-- name: has_effects
SELECT EXISTS (SELECT FROM seaway_inbox WHERE consumer = :consumer)

-- name: tally_processed
SELECT s.consumer, s.at / 60000, count(*),
       sum(('x' || encode(substr(sha256(convert_to(s.event_id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint)
FROM (
    SELECT consumer, event_id,
           CASE WHEN event_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
                THEN ('x' || substr(event_id, 1, 8) || substr(event_id, 10, 4))::bit(48)::bigint END AS at
    FROM seaway_inbox
    WHERE event_id >= :first AND event_id < :last AND strpos(consumer, ' ') = 0
) s
WHERE s.at IS NOT NULL
GROUP BY s.consumer, s.at / 60000

-- ------------------------------------------------------------ the schema

-- name: has_versions
-- Through a table: to_regclass alone may remember what was so before the lock was had.
SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass($1))

-- name: create_versions
CREATE TABLE IF NOT EXISTS seaway_schema (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: versions
SELECT version, name FROM seaway_schema ORDER BY version

-- name: begin_upgrade
BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE;
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = 0

-- name: lock_upgrade
-- Two that upgrade at once do so one after the other. The patience is said when the lock is had:
-- whoever writes waits behind an upgrade that waits for a table.
SELECT pg_advisory_xact_lock(hashtextextended('seaway db upgrade', 0));
SET LOCAL lock_timeout = 2000

-- name: record_by_hand
INSERT INTO seaway_schema (version, name) VALUES ({version}, '{name}')

-- name: record
INSERT INTO seaway_schema (version, name) VALUES ($1, $2)

-- name: objects
-- What there is, a line each, the same on every server version and in every schema.
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind FROM pg_class c
    WHERE c.relnamespace = (
        SELECT n.relnamespace FROM pg_class n WHERE n.oid = to_regclass($1)
    ) AND c.relname ^@ 'seaway_' AND c.relname !~ 'seaway_(sent|inbox)_([0-9]{8}|default|other)'
)
SELECT 'column ' || o.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || CASE WHEN a.atthasdef THEN ' with default' ELSE '' END AS line
FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE o.relkind IN ('r', 'p')
UNION ALL
SELECT 'constraint ' || o.relname || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid)
FROM ours o JOIN pg_constraint c ON c.conrelid = o.oid
WHERE c.contype IN ('p', 'u', 'c')
UNION ALL
SELECT 'index ' || regexp_replace(pg_get_indexdef(o.oid), ' ON (ONLY )?[^ ]+ USING', ' ON '
       || t.relname || ' USING')
FROM ours o JOIN pg_index i ON i.indexrelid = o.oid JOIN pg_class t ON t.oid = i.indrelid
UNION ALL
SELECT 'replica identity ' || r.relname || ' full' FROM pg_class r
WHERE r.relreplident = 'f' AND r.relname IN ('seaway_sent', 'seaway_sent_default')
  AND r.relnamespace = (SELECT n.relnamespace FROM pg_class n WHERE n.oid = to_regclass($1))
UNION ALL
SELECT 'sequence ' || o.relname || ' cache ' || q.seqcache || ' increment ' || q.seqincrement
FROM ours o JOIN pg_sequence q ON q.seqrelid = o.oid
ORDER BY 1
