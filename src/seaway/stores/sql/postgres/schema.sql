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
