-- name: forget
DELETE FROM seaway_processes WHERE process = :process OR seen_at < :now - 86400000000

-- name: tell
INSERT INTO seaway_processes (process, part, about, reason, since_at, seen_at)
VALUES (:process, :part, :about, :reason, :since_at, :now)

-- name: notices
SELECT part, about, reason, max(0, :now - since_at), process, max(0, :now - seen_at)
FROM seaway_processes ORDER BY process, part, since_at LIMIT 1000
