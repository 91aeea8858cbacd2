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

-- name: record
INSERT INTO seaway_schema (version, name, applied_at) VALUES (:version, :name, :now)

-- name: objects
SELECT type || ' ' || name, sql FROM sqlite_master
WHERE tbl_name LIKE 'seaway\_%' ESCAPE '\' AND sql IS NOT NULL
ORDER BY type, name
