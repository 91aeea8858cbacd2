-- name: forget
DELETE FROM seaway_processes
WHERE process = $1 OR seen_at < clock_timestamp() - interval '1 day'

-- name: tell
INSERT INTO seaway_processes (process, part, about, reason, since_at)
SELECT $1, n.part, n.about, n.reason, clock_timestamp() - make_interval(secs => n.lasts)
FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[]) n (part, about, reason, lasts)

-- name: notices
SELECT part, about, reason, greatest(clock_timestamp() - since_at, interval '0'), process,
       greatest(clock_timestamp() - seen_at, interval '0')
FROM seaway_processes ORDER BY process, part, since_at LIMIT 1000
