"""llama.cpp's log: whole lines into Python's logging, and the facts that it gives nowhere else."""

from __future__ import annotations

import logging
import re
from collections import deque

_logger = logging.getLogger(__name__)

# enum ggml_log_level in ggml/include/ggml.h; CONT (5) continues the line before. A failed call is reported by whoever
# made it, so llama.cpp's own levels come one step down.
_PYTHON_LEVELS = {0: logging.DEBUG, 1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}
_GGML_ERROR = 4
_GGML_CONT = 5
_BUFFER = re.compile(r"(\w+) model buffer size =\s*([0-9.]+) MiB")
# Weights as the file has them; other buffers on a CPU (CPU_REPACK, AMX, CPU_KLEIDIAI) hold a copy in another layout.
_PLAIN_BUFFERS = ("CPU", "CPU_Mapped")


class LlamaLog:
    """Joins the pieces that llama.cpp writes into lines."""

    def __init__(self) -> None:
        self._partial = ""
        self._level = 0
        # Set while a call is made to fail on purpose.
        self.is_failure_expected = False
        self.errors: deque[str] = deque(maxlen=5)
        self._repacked_mib = 0.0
        self._buffers_seen = False

    @property
    def repacked_mib(self) -> float | None:
        """MiB of weights in repacked layout as logged at load; None = no buffer size was logged at all."""
        return self._repacked_mib if self._buffers_seen else None

    def write(self, level: int, text: str) -> None:
        """Take a piece as llama.cpp gives it; a line ends with its newline."""
        if level != _GGML_CONT:
            self._level = level
        self._partial += text
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._take_line(line.rstrip())

    def _take_line(self, line: str) -> None:
        # Progress dots and blank lines say nothing.
        if not line.strip("."):
            return
        level = _PYTHON_LEVELS.get(self._level, logging.DEBUG)
        _logger.log(logging.DEBUG if self.is_failure_expected else level, "%s", line)
        if self._level == _GGML_ERROR:
            self.errors.append(line)
        if match := _BUFFER.search(line):
            self._buffers_seen = True
            if match.group(1) not in _PLAIN_BUFFERS:
                self._repacked_mib += float(match.group(2))
