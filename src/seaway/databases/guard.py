"""The savepoint that spans a transaction of ours.

It dies with any COMMIT or ROLLBACK, so a body that ends the transaction itself is found out.
"""

from __future__ import annotations

_NAME = "seaway_transaction"
SAVE = f"SAVEPOINT {_NAME}"
RELEASE = f"RELEASE SAVEPOINT {_NAME}"
UNDO = f"ROLLBACK TO SAVEPOINT {_NAME}"
