"""What a type checker knows of handlers: checked by ``make types``.

Each ``type: ignore`` below is an error that must be found: one that is not needed is one itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from dataclasses import dataclass
    from typing import Annotated

    from seaway import Consumer, Delivery, RawEvent

    @dataclass
    class Opened:
        case_id: str

    @dataclass
    class Closed:
        case_id: str

    def take(ids: list[str]) -> None: ...

    def agree(consumer: Consumer) -> None:
        @consumer.handler(Opened)
        async def one(event: Opened, delivery: Delivery) -> None: ...

        @consumer.handler(RawEvent)
        async def raw(event: RawEvent, delivery: Delivery) -> None: ...

        @consumer.batch_handler(Opened)
        async def lists(events: list[Opened], deliveries: list[Delivery]) -> None: ...

        @consumer.handler(Opened)
        async def alone(event: Opened) -> None: ...

        @consumer.handler(Opened)
        async def more(
            event: Opened, delivery: Delivery, thing: Annotated[int, "said"]
        ) -> None: ...

        @consumer.batch_handler(Opened)
        async def wider(events: Sequence[Opened], deliveries: Sequence[Delivery]) -> None: ...

        @consumer.handler(Opened)
        def plain(event: Opened, delivery: Delivery) -> None:
            take(delivery.add(event))
            plain(event, delivery)

        @consumer.batch_handler(Opened)
        def plain_lists(events: list[Opened], deliveries: list[Delivery]) -> None: ...

    def disagree(consumer: Consumer) -> None:
        @consumer.handler(Opened)  # type: ignore[arg-type]
        async def other(event: Closed, delivery: Delivery) -> None: ...

        @consumer.handler(Opened)  # type: ignore[arg-type]
        def plain(event: Closed, delivery: Delivery) -> None: ...

        @consumer.handler(Opened)  # type: ignore[type-var]
        def gives(event: Opened, delivery: Delivery) -> int:
            return 1

        @consumer.handler(Opened)  # type: ignore[arg-type]
        async def none() -> None: ...

        @consumer.handler(Opened)  # type: ignore[arg-type]
        async def lists(events: list[Opened], deliveries: list[Delivery]) -> None: ...

        @consumer.batch_handler(Opened)  # type: ignore[arg-type]
        async def other_lists(events: list[Closed], deliveries: list[Delivery]) -> None: ...

        @consumer.batch_handler(Opened)  # type: ignore[arg-type]
        async def single(event: Opened, delivery: Delivery) -> None: ...

    async def call_it(consumer: Consumer, event: Opened, delivery: Delivery) -> None:
        @consumer.handler(Opened)
        async def handle(event: Opened, delivery: Delivery, *, thing: int = 0) -> None: ...

        await handle(event, delivery, thing=1)
        await handle(event, delivery, thing="1")  # type: ignore[arg-type]
