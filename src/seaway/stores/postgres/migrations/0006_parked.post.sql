-- Its rows are in seaway_unhandled.
DROP TRIGGER seaway_unhandled_told ON seaway_unhandled;
DROP TABLE seaway_parked;
DROP FUNCTION seaway_unhandled_told();
DROP FUNCTION seaway_parked_told();
