"""What a log holds of foreign texts: one printable line each."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import seaway
from seaway import logs

HOSTILE = "a\x00b\x1b[31m\r\n2026-11-24 ERROR forged\u202e\u2028\x85"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger("seaway")
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def test_a_record_is_one_printable_line(written: io.StringIO) -> None:
    logger = logs.logger("seaway.test")
    logger.error("the id %s and the subject %r", HOSTILE, HOSTILE)
    logger.error("plain %s", "ü")
    first, second = written.getvalue().splitlines()
    assert first.isprintable()
    assert first.startswith(
        "ERROR the id a\\x00b\\x1b[31m\\r\\n2026-11-24 ERROR forged\\u202e\\u2028"
    )
    assert second == "ERROR plain ü"


def test_a_traceback_is_indented(written: io.StringIO) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logs.logger("seaway.test").exception("failed")
    first, *trace = written.getvalue().rstrip("\n").split("\n")
    assert first == "ERROR failed"
    assert all(line.startswith("  ") and line.isprintable() for line in trace)


def test_a_record_that_cannot_be_put_together_does_not_raise(written: io.StringIO) -> None:
    record = logging.LogRecord("seaway.test", logging.ERROR, "", 1, "%d", ("x",), None)
    assert logs._printable_record(record)


def test_an_exception_whose_traceback_cannot_be_had_does_not_raise(written: io.StringIO) -> None:
    class HostileError(Exception):
        @property
        def __notes__(self) -> list[str]:  # type: ignore[override]
            raise ZeroDivisionError

    try:
        raise HostileError
    except HostileError:
        logs.logger("seaway.test").exception("failed")
    assert written.getvalue() == (
        "ERROR failed\n  (its traceback cannot be had: ZeroDivisionError)\n"
    )


def test_loggers_that_somebody_else_switched_off_can_be_switched_on(written: io.StringIO) -> None:
    ours, foreign = logs.logger("seaway.test"), logging.getLogger("seawayward")
    ours.disabled = foreign.disabled = True
    logs.switch_on()
    assert (ours.disabled, foreign.disabled) == (False, True)


def test_every_logger_of_the_package_is_one_of_these() -> None:
    """A module that takes its logger from ``logging`` itself would write what it is given."""
    root = Path(seaway.__file__).parent
    for file in root.rglob("*.py"):
        if file.name != "logs.py":
            assert 'getLogger("seaway' not in file.read_text(), file
    import_module("seaway.app")
    names = [name for name in logging.Logger.manager.loggerDict if name.split(".")[0] == "seaway"]
    for name in names:
        logger = logging.getLogger(name)
        assert logger.filters or logger.name == "seaway.embedded", name
