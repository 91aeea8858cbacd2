"""The log of a command that keeps running, on a terminal. Only there is it imported."""

from __future__ import annotations

import copy
import logging

from rich.logging import RichHandler


class Screen(RichHandler):
    """For eyes. The lines of a traceback are as long as they are: folded, their paths break."""

    def emit(self, record: logging.LogRecord) -> None:
        bare = copy.copy(record)
        bare.exc_info = bare.exc_text = bare.stack_info = None
        super().emit(bare)
        try:
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            for text in (record.exc_text, record.stack_info):
                if text:
                    self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)
