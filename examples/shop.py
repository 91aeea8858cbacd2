"""One file: `seaway run shop:app --dev`, and in another terminal `python shop.py order-1 mug`."""

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass

from seaway import Delivery, Poison, Seaway, event

TABLES = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parcels (order_id TEXT NOT NULL, label TEXT NOT NULL);
"""


@event(context="shop", version=1)  # travels as shop.event.order_placed.v1
@dataclass
class OrderPlaced:
    order_id: str
    item: str


app = Seaway()  # connects to nothing yet
shipping = app.consumer("shipping", from_context="shop")  # the durable shipping__from_shop


@shipping.handler(OrderPlaced)
def pack(event: OrderPlaced, delivery: Delivery) -> None:
    if not event.item:
        raise Poison("an order of nothing cannot be packed")
    label = f"1 x {event.item}"
    delivery.tx.execute("INSERT INTO parcels VALUES (?, ?)", (event.order_id, label))
    print(f"packed {event.order_id}: {label}")


def place(order_id: str, item: str) -> None:
    with closing(sqlite3.connect("seaway.db")) as db:
        db.executescript(TABLES)
        with db:  # commits the order and its event, or neither
            db.execute("INSERT INTO orders VALUES (?, ?)", (order_id, item))
            app.outbox.add(db, OrderPlaced(order_id, item), key=order_id)


if __name__ == "__main__":
    place(*sys.argv[1:])
