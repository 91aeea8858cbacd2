-- name: alone
-- For one transaction; false where another process is at this table.
SELECT pg_try_advisory_xact_lock(to_regclass($1)::oid::integer, -2)

-- name: partitions
-- Of a table: the schema, ready to be written, the partitions' names, which of them are without the
-- replica identity that the table has, and what the time is here.
SELECT quote_ident(n.nspname), c.relname, p.relreplident = 'f' AND c.relreplident <> 'f',
       p.relreplident = 'f', clock_timestamp()
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace n ON n.oid = p.relnamespace
WHERE i.inhparent = to_regclass($1)

-- name: make
-- Attached, not made in place: that waits for nobody who has rows of other days in hand.
CREATE TABLE {name} (LIKE {table} INCLUDING ALL);
ALTER TABLE {name} REPLICA IDENTITY {identity};
ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{next}')

-- name: identify
ALTER TABLE {name} REPLICA IDENTITY FULL

-- name: keep_out
LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE

-- name: young
SELECT EXISTS (SELECT FROM {name} WHERE {moment} >= $1)

-- name: empty
TRUNCATE {name}

-- name: drop
DROP TABLE {name}

-- name: count
SELECT count(*) FROM {name} WHERE {moment} < $1

-- name: misplaced
SELECT count(*) FROM (SELECT FROM {name} WHERE {by} >= '{first}' AND {by} < '{next}' LIMIT 1000) found

-- name: delete
DELETE FROM {name} t
USING (SELECT tableoid, ctid FROM {name} WHERE {moment} < $1 LIMIT {limit}) old
WHERE t.tableoid = old.tableoid AND t.ctid = old.ctid
