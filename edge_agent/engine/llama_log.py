"""llama.cpp's log as lines of Python's logging, and a fact that stands nowhere else."""

from __future__ import annotations

import logging
import re
from collections import deque

log = logging.getLogger(__name__)

# enum ggml_log_level in ggml/include/ggml.h; CONT (5) continues the line before. The caller reports a failed
# call, so llama.cpp's own levels are lowered by one.
_PYTHON_LEVELS = {0: logging.DEBUG, 1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_GGML_ERROR = 4
_GGML_CONT = 5
_BUFFER = re.compile(r"(\w+) model buffer size =\s*([0-9.]+) MiB")
# Buffers with the file's layout; the others (CPU_REPACK, AMX, CPU_KLEIDIAI) hold a copy in another one.
_PLAIN_BUFFERS = ("CPU", "CPU_Mapped")


class LlamaLog:
    """Joins the pieces that llama.cpp writes to lines."""

    def __init__(self) -> None:
        self._partial = ""
        self._level = 0
        # Set while a call fails on purpose.
        self.is_failure_expected = False
        self.errors: deque[str] = deque(maxlen=5)
        self._repacked_mib = 0.0
        self._buffers_seen = False

    @property
    def repacked_mib(self) -> float | None:
        """MiB of weights in another layout, from the log of the load; None = no buffer size was logged."""
        return self._repacked_mib if self._buffers_seen else None

    def write(self, level: int, text: str) -> None:
        """Adds a piece as llama.cpp gives it; a newline ends a line."""
        if level != _GGML_CONT:
            self._level = level
        self._partial += text
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._log_line(line.rstrip())

    def _log_line(self, line: str) -> None:
        # Progress dots and blank lines say nothing.
        if not line.strip("."):
            return
        level = _PYTHON_LEVELS.get(self._level, logging.DEBUG)
        log.log(logging.DEBUG if self.is_failure_expected else level, "%s", line)
        if self._level == _GGML_ERROR:
            self.errors.append(line)
        if match := _BUFFER.search(line):
            self._buffers_seen = True
            if match.group(1) not in _PLAIN_BUFFERS:
                self._repacked_mib += float(match.group(2))
