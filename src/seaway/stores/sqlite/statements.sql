-- The statements of a store on SQLite. Times are microseconds since 1970; of many there is a JSON array.

-- ------------------------------------------------------------ what Outbox.add writes

-- name: add
INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers, added_at)
VALUES (?, ?, ?, ?, ?, ?)

-- name: add_own
-- NULL for an id that was sent: the column takes none.
INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers, added_at)
SELECT nullif(column1, (SELECT event_id FROM seaway_sent WHERE event_id = column1 LIMIT 1)),
       column2, column3, column4, column5, column6
FROM (VALUES (?, ?, ?, ?, ?, ?))

-- name: known
WITH given AS (SELECT value AS event_id FROM json_each(?))
SELECT event_id FROM given NATURAL JOIN seaway_outbox
UNION ALL
SELECT event_id FROM given NATURAL JOIN seaway_sent
LIMIT 1

-- ------------------------------------------------------------ the outbox

-- name: is_made
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seaway_inbox'

-- name: newest
SELECT max(at) FROM (
    SELECT max(sent_at) AS at FROM seaway_sent
    UNION ALL SELECT max(processed_at) FROM seaway_inbox
    UNION ALL SELECT * FROM (SELECT added_at FROM seaway_outbox ORDER BY position DESC LIMIT 1)
)

-- name: claim_entries
-- Entries after a position whose keys are not blocked; parked ones show which keys are.
SELECT position, event_id, subject, payload, headers, added_at, attempts, last_error, parked_at,
       ordering_key
FROM seaway_outbox
WHERE position > :after
  AND ordering_key NOT IN (SELECT value FROM json_each(:blocked))
ORDER BY position
LIMIT :limit

-- name: keep
INSERT OR IGNORE INTO seaway_sent (
    position, event_id, correlation_id, subject, ordering_key, payload, headers, added_at,
    attempts, stream, stream_seq, sent_at
)
SELECT o.position, o.event_id, json_extract(o.headers, '$."X-Correlation-Id"'), o.subject,
       o.ordering_key, o.payload, o.headers, o.added_at, o.attempts,
       json_extract(s.value, '$[1]'), json_extract(s.value, '$[2]'), :now
FROM json_each(:sent) AS s
JOIN seaway_outbox AS o ON o.position = json_extract(s.value, '$[0]')

-- name: take_out
DELETE FROM seaway_outbox
WHERE position IN (SELECT json_extract(value, '$[0]') FROM json_each(:sent))

-- name: fail
-- Counts an attempt once, however often it is recorded.
UPDATE seaway_outbox
SET attempts = :attempts + 1, last_error = :error, parked_at = CASE WHEN :park THEN :now END
WHERE position = :position AND attempts = :attempts

-- name: pulse
-- Changes when an entry is added, parked or unparked.
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'seaway_outbox'), 0),
       (SELECT count(*) FROM seaway_outbox WHERE parked_at IS NOT NULL)

-- name: backlog
SELECT (SELECT count(*) FROM seaway_outbox),
       (SELECT count(*) FROM seaway_outbox WHERE parked_at IS NOT NULL),
       (SELECT added_at FROM seaway_outbox WHERE parked_at IS NULL ORDER BY position LIMIT 1),
       coalesce((SELECT EXISTS (SELECT 1 FROM seaway_outbox p
                  WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key
                    AND p.position < o.position)
                 FROM seaway_outbox o WHERE o.parked_at IS NULL ORDER BY o.position LIMIT 1), 0)

-- name: entries
SELECT position, event_id, subject, payload, headers, added_at, attempts, last_error, parked_at
FROM seaway_outbox
WHERE (:event_ids IS NULL OR event_id IN (SELECT value FROM json_each(:event_ids)))
  AND (:parked IS NULL OR (parked_at IS NOT NULL) = :parked)
ORDER BY position
LIMIT :limit

-- name: find
SELECT position, event_id, subject, payload, headers, added_at, attempts, last_error, parked_at
FROM seaway_outbox
WHERE event_id IN (SELECT value FROM json_each(:event_ids))
ORDER BY position

-- name: unpark
UPDATE seaway_outbox
SET parked_at = NULL, attempts = 0
WHERE parked_at IS NOT NULL
  AND (:event_ids IS NULL OR event_id IN (SELECT value FROM json_each(:event_ids)))

-- name: keep_given_up
-- What another program wrote there for headers may be no object.
INSERT OR IGNORE INTO seaway_sent (
    position, event_id, correlation_id, subject, ordering_key, payload, headers, added_at,
    attempts, stream, stream_seq, sent_at
)
SELECT o.position, o.event_id,
       CASE WHEN json_type(o.headers) = 'object'
            THEN json_extract(o.headers, '$."X-Correlation-Id"') END,
       o.subject, o.ordering_key, o.payload, o.headers, o.added_at, o.attempts,
       :reason || coalesce(' (its error: ' || o.last_error || ')', ''), -1, :now
FROM seaway_outbox o
WHERE o.parked_at IS NOT NULL AND o.event_id IN (SELECT value FROM json_each(:event_ids))

-- name: discard
DELETE FROM seaway_outbox
WHERE parked_at IS NOT NULL AND event_id IN (SELECT value FROM json_each(:event_ids))
RETURNING event_id

-- name: discarded
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
WHERE stream_seq = -1
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: sent
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: sent_of_event
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
WHERE event_id = :event_id AND (:correlation_id IS NULL OR correlation_id = :correlation_id)
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: sent_of_correlation
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
WHERE correlation_id = :correlation_id
ORDER BY sent_at DESC, position DESC
LIMIT :limit

-- name: prune
DELETE FROM seaway_sent
WHERE position IN (SELECT position FROM seaway_sent WHERE sent_at < :before LIMIT :limit)

-- name: overdue_sent
SELECT count(*) FROM seaway_sent WHERE sent_at < :before

-- name: newest_place
SELECT stream_seq, event_id, sent_at FROM seaway_sent
WHERE stream = :stream AND stream_seq > 0 ORDER BY stream_seq DESC LIMIT 1

-- name: place_before
-- Of one stream, by its index; in the days before then alone, where there are days.
SELECT stream_seq, event_id, sent_at FROM seaway_sent
WHERE stream = :stream AND stream_seq > 0 AND sent_at < :before AND healed_at IS NULL LIMIT 1

-- name: waits_to_heal
SELECT count(*) FROM seaway_sent WHERE stream = :stream AND stream_seq <= -2

-- ------------------------------------------------------------ what a stream has lost

-- name: last_sent
SELECT event_id, stream_seq FROM seaway_sent
WHERE stream = :stream AND stream_seq BETWEEN 1 AND :upto
ORDER BY stream_seq DESC LIMIT 1

-- name: first_sent
SELECT min(stream_seq) FROM seaway_sent WHERE stream = :stream AND stream_seq > 0

-- name: lose
UPDATE seaway_sent SET stream_seq = -2 - stream_seq
WHERE stream = :stream AND stream_seq > :above

-- name: sent_streams
WITH RECURSIVE streams (stream) AS (
    SELECT min(s.stream) FROM seaway_sent s WHERE s.stream_seq <> -1
    UNION ALL
    SELECT (
        SELECT min(s.stream) FROM seaway_sent s
        WHERE s.stream > streams.stream AND s.stream_seq <> -1
    ) FROM streams WHERE streams.stream IS NOT NULL
)
SELECT stream FROM streams WHERE stream IS NOT NULL

-- name: to_lose
SELECT count(*), coalesce(min(stream_seq), 0), coalesce(max(stream_seq), 0) FROM seaway_sent
WHERE stream = :stream AND stream_seq > :above

-- name: lost_since
SELECT min(sent_at) FROM seaway_sent WHERE stream = :stream AND stream_seq <= -2

-- name: lost
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
WHERE stream = :stream AND stream_seq <= -2
ORDER BY position LIMIT :limit

-- name: find_lost
SELECT position, event_id, subject, payload, headers, added_at, attempts, NULL, NULL,
       stream, stream_seq
FROM seaway_sent
WHERE event_id IN (SELECT value FROM json_each(:event_ids))
  AND stream = :stream AND stream_seq <= -2

-- name: heal
UPDATE seaway_sent SET stream = :stream, stream_seq = :stream_seq,
    healed_at = CASE WHEN :again THEN :now ELSE healed_at END
WHERE event_id = :event_id AND stream_seq <= -2

-- ------------------------------------------------------------ the inbox

-- name: claim
INSERT INTO seaway_inbox (consumer, event_id, processed_at) VALUES (:consumer, :event_id, :now)
ON CONFLICT (event_id, consumer) DO NOTHING

-- name: claim_many
INSERT INTO seaway_inbox (consumer, event_id, processed_at)
SELECT :consumer, value, :now FROM json_each(:event_ids) WHERE true
ON CONFLICT (event_id, consumer) DO NOTHING RETURNING event_id

-- name: trying
INSERT INTO seaway_unhandled (consumer, event_id, state, tries, noted_at)
SELECT :consumer, value, 'trying', 1, :now FROM json_each(:event_ids) WHERE true
ON CONFLICT (consumer, event_id) DO UPDATE SET tries = tries + 1,
    noted_at = CASE WHEN state = 'trying' THEN excluded.noted_at ELSE noted_at END
RETURNING event_id, tries

-- name: unclaim
DELETE FROM seaway_inbox
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: claimed
SELECT event_id FROM seaway_inbox
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: inbox_rows
SELECT event_id FROM seaway_inbox
WHERE consumer = :consumer AND event_id > :after AND event_id < :before
ORDER BY event_id LIMIT :limit

-- name: processed
SELECT consumer, processed_at FROM seaway_inbox WHERE event_id = :event_id ORDER BY consumer

-- name: forget
DELETE FROM seaway_inbox
WHERE (event_id, consumer) IN (
    SELECT event_id, consumer FROM seaway_inbox WHERE processed_at < :before LIMIT :limit
)

-- name: overdue_processed
SELECT count(*) FROM seaway_inbox WHERE processed_at < :before

-- name: forget_tried
DELETE FROM seaway_unhandled
WHERE (consumer, event_id) IN (
    SELECT consumer, event_id FROM seaway_unhandled
    WHERE state = 'trying' AND noted_at < :before LIMIT :limit
)

-- name: overdue_tried
SELECT count(*) FROM seaway_unhandled WHERE state = 'trying' AND noted_at < :before

-- ------------------------------------------------------------ events that wait

-- name: parked_keys
SELECT k.value FROM json_each(:keys) k
WHERE EXISTS (
    SELECT 1 FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = k.value AND w.state = 'waiting'
)

-- name: standing
WITH first AS (
    SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at
    FROM seaway_unhandled w
    WHERE w.consumer = :consumer AND w.ordering_key = :key AND w.state = 'waiting' AND NOT EXISTS (
        SELECT 1 FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
    )
    ORDER BY w.place, w.event_id LIMIT 1
), found AS (
    SELECT * FROM first
    UNION
    SELECT event_id, ordering_key, place, failed, letter, noted_at
    FROM seaway_unhandled
    WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'
)
SELECT f.*, EXISTS (
    SELECT 1 FROM seaway_inbox WHERE consumer = :consumer AND event_id = :event_id
) FROM found f ORDER BY f.place, f.event_id

-- name: park
INSERT INTO seaway_unhandled (consumer, event_id, state, ordering_key, place, failed, noted_at)
VALUES (:consumer, :event_id, 'waiting', :key, :place, :failed, :now)
ON CONFLICT (consumer, event_id) DO UPDATE
SET state = 'waiting', tries = 0, failed = excluded.failed, letter = NULL,
    ordering_key = coalesce(ordering_key, excluded.ordering_key),
    place = coalesce(place, excluded.place),
    noted_at = CASE WHEN state = 'waiting' THEN noted_at ELSE excluded.noted_at END

-- name: release
DELETE FROM seaway_unhandled
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: set_letter
UPDATE seaway_unhandled SET letter = :letter
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting'

-- name: parked_heads
-- One look into the index for each key, however many events wait behind its first.
WITH RECURSIVE keys (ordering_key) AS (
    SELECT min(ordering_key) FROM seaway_unhandled
    WHERE consumer = :consumer AND state = 'waiting'
    UNION ALL
    SELECT (
        SELECT min(w.ordering_key) FROM seaway_unhandled w
        WHERE w.consumer = :consumer AND w.ordering_key > keys.ordering_key
            AND w.state = 'waiting'
    ) FROM keys WHERE keys.ordering_key IS NOT NULL
)
SELECT w.event_id, w.ordering_key, w.place, w.failed, w.letter, w.noted_at, EXISTS (
    SELECT 1 FROM seaway_inbox i WHERE i.consumer = w.consumer AND i.event_id = w.event_id
)
FROM keys JOIN seaway_unhandled w ON w.consumer = :consumer AND w.event_id = (
    SELECT f.event_id FROM seaway_unhandled f
    WHERE f.consumer = :consumer AND f.ordering_key = keys.ordering_key AND f.state = 'waiting'
    ORDER BY f.place, f.event_id LIMIT 1
)
ORDER BY w.ordering_key

-- name: drop_parked
DELETE FROM seaway_unhandled
WHERE consumer = :consumer AND event_id = :event_id AND state = 'waiting' AND letter IS :letter

-- ------------------------------------------------------------ what became of an event

-- name: kept
SELECT o.position, event_id, subject, ordering_key, headers, added_at, attempts, last_error, parked_at,
       CASE WHEN parked_at IS NULL THEN (
           SELECT p.event_id FROM seaway_outbox p
           WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key AND p.position < o.position
           ORDER BY p.position LIMIT 1
       ) END, NULL, 0, NULL, NULL
FROM seaway_outbox o WHERE event_id IN (SELECT value FROM json_each(:event_ids))
UNION ALL
SELECT position, event_id, subject, ordering_key, headers, added_at, attempts, NULL, NULL, NULL,
       stream, stream_seq, sent_at, healed_at
FROM seaway_sent WHERE event_id IN (SELECT value FROM json_each(:event_ids))

-- name: kept_of
-- What another program wrote there for headers may be no object.
SELECT * FROM (
    SELECT o.position, event_id, subject, ordering_key, headers, added_at, attempts, last_error,
           parked_at,
           CASE WHEN parked_at IS NULL THEN (
               SELECT p.event_id FROM seaway_outbox p
               WHERE p.parked_at IS NOT NULL AND p.ordering_key = o.ordering_key
                 AND p.position < o.position
               ORDER BY p.position LIMIT 1
           ) END, NULL, 0, NULL, NULL
    FROM seaway_outbox o
    WHERE CASE WHEN json_type(headers) = 'object'
               THEN json_extract(headers, '$."X-Correlation-Id"') END = :correlation_id
    UNION ALL
    SELECT position, event_id, subject, ordering_key, headers, added_at, attempts, NULL, NULL, NULL,
           stream, stream_seq, sent_at, healed_at
    FROM seaway_sent WHERE correlation_id = :correlation_id
)
WHERE position > :after ORDER BY position LIMIT :limit

-- name: rows_of
-- A row of a letter begins with its event's id and a colon, which a semicolon follows.
SELECT i.consumer, i.event_id, i.processed_at
FROM json_each(:event_ids) e JOIN seaway_inbox i ON i.event_id = e.value
UNION ALL
SELECT i.consumer, i.event_id, i.processed_at
FROM json_each(:event_ids) e
JOIN seaway_inbox i ON i.event_id > e.value || ':' AND i.event_id < e.value || ';'

-- name: unhandled
SELECT u.consumer, u.event_id, u.state = 'waiting', u.tries, u.letter, u.noted_at,
       CASE WHEN u.state = 'waiting' THEN nullif((
           SELECT f.event_id FROM seaway_unhandled f
           WHERE f.consumer = u.consumer AND f.ordering_key = u.ordering_key AND f.state = 'waiting'
           ORDER BY f.place, f.event_id LIMIT 1
       ), u.event_id) END
FROM seaway_unhandled u WHERE u.event_id IN (SELECT value FROM json_each(:event_ids))

-- ------------------------------------------------------------ the processes

-- name: forget_process
DELETE FROM seaway_processes WHERE process = :process OR seen_at < :now - 86400000000

-- name: tell
INSERT INTO seaway_processes (process, part, about, reason, since_at, seen_at)
SELECT :process, p.value, a.value, r.value, :now - CAST(round(l.value * 1000000) AS INTEGER), :now
FROM json_each(:parts) p JOIN json_each(:abouts) a ON a.key = p.key
JOIN json_each(:reasons) r ON r.key = p.key JOIN json_each(:lasts) l ON l.key = p.key

-- name: notices
SELECT part, about, reason, max(0, :now - since_at), process, max(0, :now - seen_at)
FROM seaway_processes ORDER BY process, part, since_at LIMIT 1000

-- ------------------------------------------------------------ what is noted

-- name: forget_log
DELETE FROM seaway_log WHERE noted_at < :now - 400 * 86400000000

-- name: note
INSERT INTO seaway_log (noted_at, noted_by, action, about, detail, seen_at)
SELECT :now, b.value, a.value, o.value, d.value, CASE WHEN :seen THEN :now END
FROM json_each(:by) b JOIN json_each(:actions) a ON a.key = b.key
JOIN json_each(:abouts) o ON o.key = b.key JOIN json_each(:details) d ON d.key = b.key
ORDER BY b.key

-- name: log
SELECT action, about, detail, noted_by, entry, noted_at, seen_at
FROM seaway_log
WHERE (:actions IS NULL OR action IN (SELECT value FROM json_each(:actions)))
  AND (:entry IS NULL OR entry = :entry)
  AND (NOT :unseen OR seen_at IS NULL)
  AND (:naming IS NULL OR instr(detail, :naming) > 0)
  AND (:after IS NULL OR entry < :after)
ORDER BY entry DESC LIMIT :limit

-- name: unseen
SELECT action, about, count(*),
       sum(CASE WHEN json_type(detail, '$.events') = 'integer'
                THEN json_extract(detail, '$.events') ELSE 0 END),
       max(entry), json_quote(json_extract(detail, '$.reason'))
FROM seaway_log WHERE seen_at IS NULL
GROUP BY action, about ORDER BY action, about

-- name: see
UPDATE seaway_log SET seen_at = :now
WHERE seen_at IS NULL
  AND (:entries IS NULL OR entry IN (SELECT value FROM json_each(:entries)))

-- name: places
SELECT part, stream, stream_seq, event_id, stored_at FROM seaway_places
WHERE part = :part ORDER BY stream

-- name: know
INSERT INTO seaway_places (part, stream, stream_seq, event_id, stored_at, noted_at)
VALUES (:part, :stream, :stream_seq, :event_id, :stored_at, :now)
ON CONFLICT (part, stream) DO UPDATE SET stream_seq = excluded.stream_seq,
    event_id = excluded.event_id, stored_at = excluded.stored_at, noted_at = excluded.noted_at

-- ------------------------------------------------------------ what mending leaves

-- name: forget_run_items
DELETE FROM seaway_run_items WHERE run IN (
    SELECT run FROM seaway_runs WHERE changed_at < :now - 400 * 86400000000
)

-- name: forget_runs
DELETE FROM seaway_runs WHERE changed_at < :now - 400 * 86400000000

-- name: begin_run
INSERT INTO seaway_runs (run, kind, about, begun_by, plan, state, progress, begun_at, changed_at, ended_at)
VALUES (:run, :kind, :about, :by, :plan, :state, :progress, :now, :now,
        CASE WHEN :state <> 'running' THEN :now END)
ON CONFLICT (run) DO NOTHING

-- name: change_run
-- Time passes between two changes, whatever the clock says: whoever has looked before knows it.
UPDATE seaway_runs SET
    state = coalesce(:state, state),
    progress = coalesce(:progress, progress),
    changed_at = max(:now, changed_at + 1),
    ended_at = CASE WHEN :state = 'running' THEN NULL WHEN :state IS NULL THEN ended_at ELSE :now END
WHERE run = :run AND (:since IS NULL OR changed_at <= :since)

-- name: runs
SELECT run, kind, about, begun_by, plan, state, progress, begun_at, changed_at, ended_at
FROM seaway_runs
WHERE (:kind IS NULL OR kind = :kind) AND (:run IS NULL OR run = :run)
ORDER BY begun_at DESC, run DESC LIMIT :limit

-- name: note_items
INSERT INTO seaway_run_items (run, item, state, event_id, consumer, detail, changed_at)
SELECT :run, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]'), :now
FROM json_each(:rows) WHERE true
ON CONFLICT (run, item) DO UPDATE SET state = excluded.state, event_id = excluded.event_id,
    consumer = excluded.consumer, detail = excluded.detail, changed_at = excluded.changed_at

-- name: run_items
SELECT item, state, event_id, consumer, detail, changed_at FROM seaway_run_items
WHERE run = :run AND item > :after AND (:state IS NULL OR state = :state)
ORDER BY item LIMIT :limit

-- name: count_items
SELECT state, count(*) FROM seaway_run_items WHERE run = :run GROUP BY state ORDER BY state

-- name: keep_discarded
INSERT INTO seaway_discarded (
    letter, stored_at, queue, subject, headers, payload, event_id, consumer, holds, behind,
    discarded_by, why, discarded_at, kept_until
) VALUES (
    :letter, :stored_at, :queue, :subject, :headers, :payload, :event_id, :consumer, :holds, :behind,
    :by, :why, :now, :now + CAST(round(:seconds * 1000000) AS INTEGER)
)
ON CONFLICT (letter, stored_at) DO UPDATE SET discarded_by = excluded.discarded_by,
    why = excluded.why, discarded_at = excluded.discarded_at, kept_until = excluded.kept_until

-- name: discarded_letters
SELECT letter, stored_at, queue, subject, headers, CASE WHEN :payloads THEN payload END,
       event_id, consumer, holds, behind, discarded_by, why, discarded_at, kept_until
FROM seaway_discarded
WHERE kept_until > :now
  AND (:names IS NULL OR letter IN (SELECT value FROM json_each(:names))
       OR event_id IN (SELECT value FROM json_each(:names)))
  AND (:consumer IS NULL OR consumer = :consumer)
ORDER BY discarded_at DESC, letter, stored_at LIMIT :limit

-- name: take_discarded
DELETE FROM seaway_discarded WHERE letter = :letter AND stored_at = :stored_at

-- name: forget_discarded
DELETE FROM seaway_discarded WHERE (letter, stored_at) IN (
    SELECT letter, stored_at FROM seaway_discarded WHERE kept_until <= :now LIMIT :limit
)

-- name: overdue_discarded
SELECT count(*) FROM seaway_discarded WHERE kept_until <= :now

-- ------------------------------------------------------------ what is compared

-- name: writes
SELECT EXISTS (SELECT 1 FROM seaway_sent WHERE stream = :stream)
    OR EXISTS (SELECT 1 FROM seaway_outbox WHERE substr(subject, 1, length(:prefix)) = :prefix)

-- name: last_place
SELECT coalesce(max(max(stream_seq), -2 - min(stream_seq)), 0) FROM seaway_sent WHERE stream = :stream

-- name: sent_places
-- A place that its stream has lost is stored as -2 - place.
SELECT event_id, stream_seq
FROM seaway_sent
WHERE stream = :stream AND (stream_seq BETWEEN :first AND :last
                            OR stream_seq BETWEEN -2 - :last AND -2 - :first)
ORDER BY CASE WHEN stream_seq < 0 THEN -2 - stream_seq ELSE stream_seq END

-- name: committed
WITH given AS (SELECT value AS event_id FROM json_each(:event_ids))
SELECT event_id, '', 0 FROM given NATURAL JOIN seaway_outbox
UNION ALL
SELECT event_id, stream, stream_seq FROM given NATURAL JOIN seaway_sent

-- name: moved
UPDATE seaway_sent SET stream_seq = :new, healed_at = :now
WHERE event_id IN (SELECT value FROM json_each(:event_ids)) AND stream = :stream AND stream_seq = :old

-- name: has_effects
SELECT EXISTS (SELECT 1 FROM seaway_inbox WHERE consumer = :consumer)

-- name: processed_page
-- The key's own order: each page begins behind the last row of the one before.
SELECT event_id, consumer FROM seaway_inbox
WHERE (event_id, consumer) > (:first, :consumer) AND event_id < :last
ORDER BY event_id, consumer LIMIT :limit

-- ------------------------------------------------------------ the schema

-- name: create_versions
CREATE TABLE IF NOT EXISTS seaway_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT

-- name: has_versions
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'seaway_schema'

-- name: versions
SELECT version, name FROM seaway_schema ORDER BY version

-- name: begin_upgrade
BEGIN IMMEDIATE

-- name: record_by_hand
INSERT INTO seaway_schema (version, name, applied_at)
VALUES ({version}, '{name}', CAST(strftime('%s', 'now') AS INTEGER) * 1000000)

-- name: record
INSERT INTO seaway_schema (version, name, applied_at) VALUES (:version, :name, :now)

-- name: objects
SELECT type || ' ' || name, sql FROM sqlite_master
WHERE tbl_name LIKE 'seaway\_%' ESCAPE '\' AND sql IS NOT NULL
ORDER BY type, name
