"""One switch of the model: what is known of it, and what takes long: to read a bundle, to record that it counts."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from edge_agent.core.config import Config, ModelConfig
from edge_agent.core.errors import printable
from edge_agent.core.model import Model, ModelError
from edge_agent.core.protocol import Ready
from edge_agent.models import record as model_record
from edge_agent.models.bundle import open_model, path_fault
from edge_agent.models.canaries import FILE as CANARIES_FILE
from edge_agent.models.canaries import CanaryError
from edge_agent.models.canary_file import Questions, read_questions
from edge_agent.models.record import Record
from edge_agent.worker.process import WorkerExited

log = logging.getLogger(__name__)

# Of a worker nothing is known of: the weights once more in the layout of fast kernels, and context and process.
COPIES, BASE_MB = 2.0, 500.0


class SwitchError(Exception):
    """The old model stays in force. code: as the command that asked for the switch answers it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Answer(Protocol):
    """Called once with the result of a switch, or with its fault."""

    def __call__(self, data: Any = None, error: SwitchError | None = None) -> None: ...


class How(StrEnum):
    SWITCH = "switch"
    ROLLBACK = "rollback"
    # No command did it: other files lay in its place when a worker was started again.
    REPLACED = "replaced"


class Phase(StrEnum):
    VERIFYING = "verifying"
    # For the end of the worker that the last switch replaced.
    WAITING = "waiting"
    DRAINING = "draining"
    ENDING = "ending"
    LOADING = "loading"
    ASKING = "asking"
    RECORDING = "recording"


@dataclass(slots=True, eq=False)
class Attempt:
    """One switch. since: when the phase began, or last got on; seconds of the monotonic clock.

    advances: how often the thread that reads the bundle has got on, which alone counts them; seen: of these, so far.
    """

    source: Path
    how: How
    allow_downgrade: bool
    answer: Answer
    since: float
    phase: Phase = Phase.VERIFYING
    advances: int = 0
    seen: int = 0
    model: Model | None = None
    canaries: Questions | None = None
    ready: Ready | None = None
    asked: int = 0
    is_beside: bool = True
    # Of the worker that is to be in force, should it come before that.
    end: WorkerExited | None = None

    def advance(self) -> None:
        """For its thread."""
        self.advances += 1

    def look(self, now: float) -> None:
        if self.advances != self.seen:
            self.seen, self.since = self.advances, now

    def event(self, old: Model) -> dict[str, Any]:
        """What the bus is told of a switch that is done."""
        assert self.model is not None
        return switched_event(old, self.model, self.how)

    def failed_event(self, code: str, message: str) -> dict[str, Any]:
        """And of one that is not: the old model goes on."""
        return {"how": self.how.value, "bundle": printable(self.source.name), "code": code, "message": message}

    def result(self, old: Model) -> dict[str, Any]:
        """And who asked for it. canaries: how many were asked; None = the bundle has none."""
        canaries = None if self.canaries is None else len(self.canaries.canaries)
        return {"changed": True, **self.event(old), "canaries": canaries, "is_beside": self.is_beside}


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle was verified, or not."""

    attempt: Attempt
    model: Model | None = None
    canaries: Questions | None = None
    error: SwitchError | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The switch is on the disk, or not."""

    attempt: Attempt
    fault: str | None = None


def switched_event(old: Model, new: Model, how: How) -> dict[str, Any]:
    """`event/model-switched`."""
    before, after = (
        {"name": model.bundle_name, "folder": model.folder, "version": model.version, "sha256": model.sha256}
        for model in (old, new)
    )
    return {"model": new.key, "how": how.value, "old": before, "new": after}


def needed_mb(new: Model, old: Model, worker_mb: float | None) -> float:
    """Memory for a worker with the new model, in MB. worker_mb: what the old one's has; None = there is none."""
    if worker_mb is None or not old.size_bytes:
        return BASE_MB + COPIES * new.size_bytes / 1e6
    return worker_mb * max(1.0, new.size_bytes / old.size_bytes)


def open_bundle(attempt: Attempt, configured: ModelConfig) -> Opened:
    """Checks every byte of it."""
    if fault := path_fault(attempt.source):
        return Opened(attempt, error=SwitchError("bundle_refused", f"bundle: {fault}"))
    file = attempt.source / CANARIES_FILE
    try:
        model = open_model("default", attempt.source, configured.public_key, configured.chat_templates, attempt.advance)
        return Opened(attempt, model, read_questions(file) if file.is_file() else None)
    except (ModelError, CanaryError, OSError) as error:
        return Opened(attempt, error=SwitchError("bundle_refused", str(error)))
    except Exception:
        log.exception("a bundle could not be read")
        return Opened(attempt, error=SwitchError("internal", "the bundle met a fault of the agent"))


def record(attempt: Attempt, config: Config, old: Model, previous: Path | None) -> Recorded:
    """From its end on, a start takes the new model; while it fails, the old one."""
    model = attempt.model
    assert model is not None
    before = model_record.read(config)
    after = Record(configured=config.models["default"].path, current=model.source, previous=previous)
    try:
        if not model.is_unchanged():
            return Recorded(attempt, "the bundle was changed while it was loaded")
        model_record.write(config.state_dir, after)
    except OSError as error:
        # What could not be brought to the disk for sure must not come into force by chance.
        with suppress(OSError):
            if before is None:
                model_record.forget(config.state_dir)
            else:
                model_record.write(config.state_dir, before)
        return Recorded(attempt, f"{config.state_dir}: {error.strerror}")
    except Exception:
        log.exception("a switch could not be recorded")
        return Recorded(attempt, "the record met a fault of the agent")
    model_record.keep_engine_states(config.state_dir, [old, model])
    return Recorded(attempt)
