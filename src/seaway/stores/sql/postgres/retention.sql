-- name: alone
SELECT pg_advisory_xact_lock(to_regclass($1)::oid::integer, -2)

-- name: days
-- The days of seaway_sent that have a partition of their own, by their names.
SELECT c.relname
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass($1) AND c.relname ~ 'seaway_sent_[0-9]{8}$'

-- name: make
SELECT format('CREATE TABLE IF NOT EXISTS %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
              n.nspname, $2::text, c.oid::regclass, $3::text, $4::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)

-- name: drop
SELECT format('DROP TABLE IF EXISTS %I.%I', n.nspname, $2::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)

-- name: prune_default
DELETE FROM seaway_sent_default WHERE sent_at < $1

-- name: prune_all
DELETE FROM seaway_sent WHERE sent_at < $1
