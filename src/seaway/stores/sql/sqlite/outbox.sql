-- name: is_made
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seaway_inbox'

-- name: newest
SELECT max(at) FROM (
    SELECT max(sent_at) AS at FROM seaway_sent
    UNION ALL SELECT max(processed_at) FROM seaway_inbox
    UNION ALL SELECT * FROM (SELECT added_at FROM seaway_outbox ORDER BY position DESC LIMIT 1)
)

-- name: claim
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
WHERE (:event_id IS NULL OR event_id = :event_id)
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

-- name: give_up
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

-- name: drop_given_up
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

-- name: overdue
SELECT count(*) FROM seaway_sent WHERE sent_at < :before
