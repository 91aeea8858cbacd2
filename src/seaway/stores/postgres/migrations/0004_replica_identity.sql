-- Rows of seaway_sent that are deleted one by one have no key by which a replica could be told of
-- them, and once a publication has the table the server refuses to delete any. The whole row is its
-- identity: that costs nothing but where a deletion is decoded, and is a change of the catalog alone.
-- The parent comes before its partitions, as in what is written there: no deadlock. Partitions that
-- are made later take it from the parent.
ALTER TABLE seaway_sent REPLICA IDENTITY FULL;

DO $$
DECLARE
    found regclass;
BEGIN
    FOR found IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'seaway_sent'::regclass LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', found);
    END LOOP;
END
$$;
