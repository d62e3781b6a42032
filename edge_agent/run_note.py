"""A note in `state_dir` by which the next run of the agent learns how this one ended."""

import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.core.clock import moment
from edge_agent.core.files import read_if_exists, write_atomically

log = logging.getLogger(__name__)

FILE = "run-1.json"
STOPPED = "stopped"
FAILED = "it failed: see its log"
MODEL_CHANGED = "the files of its model had changed"
KILLED = "killed"
WITHOUT_POWER = "the board lost power or was reset"


class RunNote:
    """For the agent's thread alone. Its methods write to the disk, and log it instead of raising if that fails."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._boot = moment(time.monotonic()).boot

    def begin(self) -> str | None:
        """Notes that this run has begun; returns how the previous one ended, None if it was stopped or is unknown."""
        last = self._read()
        self.set_end(None)
        match last:
            case {"end": str(end)}:
                return None if end == STOPPED else end
            case {"end": None, "boot": self._boot}:
                return KILLED
            case {"end": None, "boot": str()}:
                return WITHOUT_POWER
        return None

    def set_end(self, end: str | None) -> None:
        """Notes how this run ends. It holds unless another end is noted; without one (None), the run was killed."""
        try:
            write_atomically(self._path, json.dumps({"boot": self._boot, "end": end}).encode(), mode=0o600)
        except OSError as error:
            log.info("%s cannot be written, so the next run does not learn how this one ended: %s", self._path, error)

    def _read(self) -> Any:
        with suppress(OSError, ValueError, RecursionError):
            return json.loads(read_if_exists(self._path) or b"null")
        return None
