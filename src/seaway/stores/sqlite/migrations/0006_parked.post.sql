-- Its rows are in seaway_unhandled.
DROP TRIGGER seaway_unhandled_inserted;
DROP TRIGGER seaway_unhandled_updated;
DROP TRIGGER seaway_unhandled_deleted;
DROP TABLE seaway_parked;
