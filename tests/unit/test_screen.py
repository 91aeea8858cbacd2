"""The log on a terminal."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from seaway.cli.screen import Screen


def test_a_traceback_is_not_folded() -> None:
    text = io.StringIO()
    logger = logging.Logger("shop")
    logger.addHandler(
        Screen(console=Console(file=text, width=80, force_terminal=False), show_path=False)
    )
    where = "/a/path/that/is/longer/than/what/is/left/of/eighty/columns/beside/a/time/shop.py"
    try:
        exec(compile("1 / 0", where, "exec"))
    except ZeroDivisionError:
        logger.exception("failed")
    lines = text.getvalue().splitlines()
    assert "failed" in lines[0]
    assert f'  File "{where}", line 1, in <module>' in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert sum("Traceback" in line for line in lines) == 1
