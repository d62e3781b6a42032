"""llama.cpp's log as lines of Python's logging, and a fact that stands nowhere else."""

from __future__ import annotations

import logging
import re
from collections import deque

log = logging.getLogger(__name__)

# enum ggml_log_level in ggml/include/ggml.h. The caller reports a failed call, so llama.cpp's own levels are lowered
# by one.
_PYTHON_LEVELS = {3: logging.INFO, 4: logging.WARNING}
_GGML_ERROR = 4
_BUFFER = re.compile(r"(\w+) model buffer size =\s*([0-9.]+) MiB")
# Buffers with the file's layout; the others (CPU_REPACK, AMX, CPU_KLEIDIAI) hold a copy in another one.
_PLAIN_BUFFERS = ("CPU", "CPU_Mapped")


class LlamaLog:
    """errors: the latest ones. repacked_mib: MiB of weights in another layout; None = no buffer size was logged."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=5)
        self.repacked_mib: float | None = None

    def write(self, level: int, text: str) -> None:
        """Takes a line as llama.cpp gives it."""
        line = text.strip()
        log.log(_PYTHON_LEVELS.get(level, logging.DEBUG), "%s", line)
        if level == _GGML_ERROR:
            self.errors.append(line)
        if match := _BUFFER.search(line):
            self.repacked_mib = self.repacked_mib or 0.0
            if match[1] not in _PLAIN_BUFFERS:
                self.repacked_mib += float(match[2])
