"""A consumer's options: named once, refused with a way out, and known to the type checker.

Each ``type: ignore`` below is an error that ``make types`` must find: one that is not needed is one
itself.
"""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest

from seaway import Backoff, ConsumerOptions, Seaway
from seaway.consumer.options import whole
from seaway.errors import ConfigError

if TYPE_CHECKING:
    from typing import Unpack

    from seaway import Consumer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "consumers.md"
CONFIG = {
    "contexts": ["sea"],
    "consumers": [{"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}],
}

if TYPE_CHECKING:

    def of_our_own(app: Seaway, **options: Unpack[ConsumerOptions]) -> Consumer:
        return app.consumer("case_mgmt", from_context="sea", **options)

    def agree(app: Seaway) -> None:
        app.consumer("case_mgmt", from_context="sea", batch=50, tx=None, ordering="none")
        app.consumer("case_mgmt", purpose="mail", deadline=timedelta(minutes=1), on_failure="park")
        of_our_own(app, workers=4, retry=Backoff(timedelta(seconds=1), timedelta(seconds=9)))

    def disagree(app: Seaway) -> None:
        app.consumer("a", from_context="sea", bacth=50)  # type: ignore[call-arg]
        app.consumer("a", from_context="sea", batch="50")  # type: ignore[arg-type]
        app.consumer("a", from_context="sea", on_failure="wait")  # type: ignore[arg-type]
        app.consumer("a", from_context="sea", deadline=30)  # type: ignore[arg-type]
        app.consumer("a", from_context="sea", stream="SHOP_EVENTS")  # type: ignore[call-arg]
        of_our_own(app, workers=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bacth": 5}, "no option 'bacth' (did you mean batch?)"),
        ({"colour": 5}, "no option 'colour' (it has batch, workers, "),
        ({"stream": "SHOP_EVENTS"}, "no option 'stream'"),
        ({"batch": "5"}, "batch is int, not '5'"),
        ({"workers": True}, "workers is int, not True"),
        ({"workers": None}, "workers is int, not None"),
        ({"batch": 0}, "batch and workers are 1 or more"),
        ({"workers": -1}, "batch and workers are 1 or more"),
        ({"deadline": 30}, "deadline is timedelta or None, not 30"),
        ({"grace": None}, "grace is timedelta, not None"),
        ({"retry": 3}, "retry is Backoff or RetryPolicy or None, not 3"),
        ({"ordering": "subject"}, "ordering is 'key' or 'none', not 'subject'"),
        ({"on_failure": ["park"]}, "on_failure is 'continue' or 'park', not ['park']"),
        ({"on_unknown": None}, "on_unknown is 'ignore' or 'letter', not None"),
        ({"on_failure": "park", "tx": None}, "needs a database"),
        ({"on_failure": "park", "tx": object()}, "needs the application's own store"),
        ({"on_failure": "park", "ordering": "none"}, "needs ordering='key'"),
    ],
)
def test_a_wrong_option_names_the_consumer_and_what_would_be_right(
    options: dict[str, Any], said: str
) -> None:
    app = Seaway.from_config(CONFIG)
    with pytest.raises(ConfigError, match="consumer case_mgmt__from_sea") as raised:
        app.consumer("case_mgmt", from_context="sea", **options)
    assert said in str(raised.value)
    app.consumer("case_mgmt", from_context="sea")  # The wrong one was not declared.


def test_what_is_left_out_has_its_default() -> None:
    options = whole("case_mgmt__from_sea", {"batch": 7})
    assert options == {
        "batch": 7,
        "workers": 1,
        "ordering": "key",
        "deadline": None,
        "grace": timedelta(seconds=30),
        "retry": None,
        "on_failure": "continue",
        "on_unknown": "ignore",
        "tx": "store",
    }
    assert list(options) == list(get_type_hints(ConsumerOptions))


def test_the_signature_says_what_the_options_are_and_the_page_has_them_all() -> None:
    parameters = inspect.signature(Seaway.consumer).parameters
    assert parameters["options"].annotation == "Unpack[ConsumerOptions]"
    assert "from_context" in parameters
    _, _, section = PAGE.read_text().partition("\n## Options\n")
    named = re.findall(r"^\| `([a-z_]+)` \|", section.partition("\n## ")[0], flags=re.M)
    assert sorted(named) == sorted(get_type_hints(ConsumerOptions))
