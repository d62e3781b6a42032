"""The current worker: started, watched, restarted after a growing pause, replaced at a model switch.

It decides about processes only; the agent decides what their ends mean for requests and for the bus.
"""

import logging
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_agent.board.process import process_memory, resident_mb
from edge_agent.core import pipe
from edge_agent.core.config import Config
from edge_agent.core.model import Model
from edge_agent.core.wording import end_of_log, how_ended, shown_path
from edge_agent.worker.client import WorkerClient
from edge_agent.worker.process import ANSWER_SILENCE_S, WorkerExited, WorkerProcess
from edge_agent.worker.throughput import Throughput

log = logging.getLogger(__name__)

# Shortest and longest pause before a restart.
RESTART_AFTER_S = (1.0, 30.0)
# A worker that was ready for longer is restarted at once.
STABLE_AFTER_S = 60.0
# A worker that is silent for longer raises an alarm; it is killed only much later. The longest step, a full batch of a
# 3B model on a Pi 4, may come near.
SILENT_AFTER_S = 30.0
# How much memory a worker may hold beyond all that it had allocated when it became ready. Answers need less.
GROWTH_MIB = 256.0
# A worker that holds more is replaced at most this often, because a bound that is too small must not stop the service.
REPLACED_EVERY_S = 3600.0
# Requests count from 1. One canary runs at a time.
_CANARY_ID = 0


@dataclass(frozen=True, slots=True)
class FromWorker:
    """An event and the process that sent it."""

    worker: WorkerProcess
    event: pipe.Event | WorkerExited


@dataclass(frozen=True, slots=True)
class CanaryAnswered:
    """The current worker is done with a canary."""

    answer: pipe.WorkerAnswer


@dataclass(slots=True)
class _CurrentWorker:
    """One worker process: loading, then ready; dying once it is killed."""

    process: WorkerProcess
    heard_at: float
    started_at: float | None = None
    """None for a worker that was adopted."""
    ready: pipe.Ready | None = None
    ready_at: float = 0.0
    max_mib: float = math.inf
    """The memory that it may need."""
    killed_for: str | None = None

    def kill(self, reason: str) -> None:
        if self.killed_for is None:
            log.error("the worker is killed: %s", reason)
            self.killed_for = reason
            self.process.kill()

    def kill_if_silent(self, now: float) -> None:
        silent_s = now - self.heard_at
        if self.ready is None and silent_s >= pipe.LOAD_SILENCE_S:
            self.kill(f"its load made no progress for {pipe.LOAD_SILENCE_S:.0f} s")
        elif self.ready is not None and silent_s >= ANSWER_SILENCE_S:
            self.kill(f"it was silent for {ANSWER_SILENCE_S:.0f} s")

    def describe_end(self, event: WorkerExited) -> str:
        """How it ended, with its last words."""
        how = how_ended(event.returncode)
        if self.killed_for is not None and event.returncode == -signal.SIGKILL:
            how = f"killed by the agent: {self.killed_for}"
        words = end_of_log(event.log_tail)
        return f"{how}: {words}" if words else how


WorkerEvent = pipe.Event | WorkerExited | CanaryAnswered


class Supervisor:
    """Keeps one worker running. Belongs to the agent's thread; `now` is in seconds of the monotonic clock.

    `deliver` puts an event of any worker into the agent's inbox, which gives it to `receive`.
    """

    def __init__(
        self, config: Config, model: Model, prefixes: tuple[pipe.TaskPrefix, ...], deliver: Callable[[FromWorker], None]
    ) -> None:
        self.model = model
        self.restarts = 0
        # How the latest worker ended, or why it could not be started.
        self.last_end: str | None = None
        # When the next worker is started; None if there is one, or there will be none.
        self.restart_at: float | None = None
        # The first worker could not load the model, or its files are gone, so no other is started until `load`.
        self.has_given_up = False
        # The model's files are not those that were verified; the next start of the agent verifies them.
        self.has_changed_files = False
        self.throughput = Throughput()
        self._config = config
        self._prefixes = prefixes
        self._deliver = deliver
        self._current: _CurrentWorker | None = None
        # The worker that a switch ended.
        self._retired: WorkerProcess | None = None
        self._pause_s = RESTART_AFTER_S[0]
        self._outgrown_at = -math.inf
        # When `restart_or_kill` was last called.
        self._watched_at = math.inf
        # From the start of a process until its model answered, without measurements; None if no worker was ever ready.
        self._reload_s: float | None = None

    @property
    def ready(self) -> pipe.Ready | None:
        """What the current worker said when its model answered; None while none answers."""
        return None if self._current is None else self._current.ready

    @property
    def ready_since(self) -> float | None:
        """Since when the current worker answers; None while none does."""
        return self._current.ready_at if self._current is not None and self._current.ready is not None else None

    @property
    def has_or_expects_worker(self) -> bool:
        """Whether a process is there, or will be."""
        return self.restart_at is not None or (self._current is not None and self._current.process.is_running)

    @property
    def next_ready_at(self) -> float | None:
        """When the next worker is likely to answer; None if none is due, or that is unknown."""
        return None if self.restart_at is None or self._reload_s is None else self.restart_at + self._reload_s

    @property
    def has_retired(self) -> bool:
        """Whether the worker that a switch ended is still there."""
        return self._retired is not None and self._retired.is_running

    def as_health(self) -> dict[str, Any]:
        """What is unknown without a worker that answers is null."""
        ready, throughput = self.ready, self.throughput
        repacked_mib = None if ready is None else ready.repacked_mib
        return {
            "worker": {
                "restarts": self.restarts,
                "last_end": self.last_end,
                "model": self.model.bundle_name,
                "bytes_per_token": self.model.bytes_per_token,
                "pid": ready and ready.pid,
                "cpu_variant": ready and ready.cpu_variant,
                "repacked_mb": None if repacked_mib is None else repacked_mib * 1.048576,
            },
            "inference": {
                "prompt_tokens_total": throughput.prompt_tokens_total,
                "completion_tokens_total": throughput.completion_tokens_total,
                "cached_tokens_total": throughput.cached_tokens_total,
                "decode_tok_s": throughput.decode_tok_s,
                "prefill_tok_s": throughput.prefill_tok_s,
                "batch_avg": throughput.batch_avg,
            },
            "memory": {"worker_rss_mb": ready and resident_mb(ready.pid)},
        }

    def reasons(self) -> dict[str, bool]:
        """Whether each of its health reasons holds."""
        return {
            "model-not-loaded": self.ready is None,
            "model-fallback": self.model.is_fallback,
        }

    def is_silent(self, now: float) -> bool:
        """Whether the worker has been silent for so long that it probably hangs."""
        return (self.silent_s(now) or 0.0) >= SILENT_AFTER_S

    def silent_s(self, now: float) -> float | None:
        """None while no worker is ready."""
        return now - self._current.heard_at if self._current is not None and self._current.ready is not None else None

    def start(self, now: float) -> None:
        """Starts a worker. Raises OSError if its process cannot be started."""
        load = self.load_command(self.model)
        process = WorkerProcess(load, lambda process, event: self._deliver(FromWorker(process, event)))
        log.info("worker pid=%s loads %s; its steps are measured if they never were", process.pid, self.model.path)
        self._current, self.restart_at = _CurrentWorker(process, heard_at=now, started_at=now), None

    def load(self, model: Model, now: float) -> None:
        """Starts a worker with this model after giving up, or without one before. Raises OSError."""
        self.model, self.has_given_up = model, False
        self.start(now)

    def load_command(self, model: Model) -> pipe.Load:
        """The command that makes a worker load this model and the tasks' prefixes."""
        state_dir = model.engine_state(self._config.state_dir)
        return model.load_command(self._config.engine, tasks=self._prefixes, state_dir=state_dir)

    def send(self, command: pipe.Command) -> None:
        """Sends a command to the worker, if there is one; never waits."""
        if self._current is not None:
            self._current.process.send(command)

    def ask_canary(self, request: pipe.EngineRequest) -> None:
        """Its answer comes as CanaryAnswered."""
        self.send(replace(request, id=_CANARY_ID))

    def cancel_canary(self) -> None:
        self.send(pipe.Cancel(id=_CANARY_ID))

    def set_prefixes(self, prefixes: tuple[pipe.TaskPrefix, ...]) -> None:
        """Sets the prefixes for the worker that runs, and for all later ones."""
        self._prefixes = prefixes
        self.send(pipe.SetTasks(tasks=prefixes))

    def receive(self, message: FromWorker, now: float) -> WorkerEvent | None:
        """What the agent acts on; None if it came from a worker other than the current one."""
        event = message.event
        if self._current is None or message.worker is not self._current.process:
            return None
        self._current.heard_at = now
        return CanaryAnswered(event) if isinstance(event, pipe.WorkerAnswer) and event.id == _CANARY_ID else event

    def on_ready(self, ready: pipe.Ready, now: float) -> None:
        """The model answers."""
        current = self._current
        assert current is not None
        current.ready, current.ready_at = ready, now
        if (memory := process_memory(ready.pid)) is not None:
            current.max_mib = memory.data_mib + GROWTH_MIB
        self.throughput.on_worker_ready()
        # Includes the start of the process, which takes seconds on a board.
        self._reload_s = (ready.load_s if current.started_at is None else now - current.started_at) - ready.measure_s
        log.info("model ready load_s=%.2f threads=%d repacked_mib=%s", ready.load_s, ready.threads, ready.repacked_mib)

    def on_load_failed(self, message: str) -> None:
        """WorkerExited follows. A model that was loaded before is tried again."""
        log.error("the model cannot be loaded: %s", message)
        self.has_given_up = self._reload_s is None

    def on_ended(self, event: WorkerExited, now: float) -> str:
        """The current worker has ended; returns how, and schedules the next one."""
        current, self._current = self._current, None
        assert current is not None
        if current.ready is not None and now - current.ready_at > STABLE_AFTER_S:
            self._pause_s = 0.0
        how = self.last_end = current.describe_end(event)
        if not self.has_given_up:
            log.error("worker ended, restart_in_s=%.1f: %s", self._pause_s, how)
            self.restarts += 1
            self._schedule_restart(now)
        return how

    def replace_outgrown(self, now: float) -> None:
        """Ends a worker that leaks, before it takes the board's memory. To be called while nothing runs or waits."""
        current = self._current
        if current is None or current.ready is None or now - self._outgrown_at < REPLACED_EVERY_S:
            return
        memory, max_mib = process_memory(current.ready.pid), current.max_mib
        if memory is not None and memory.held_mib > max_mib:
            self._outgrown_at = now
            current.kill(f"the worker holds {memory.held_mib:.0f} MiB and should need at most {max_mib:.0f} MiB")

    def restart_or_kill(self, now: float) -> str | None:
        """To be called several times a second: starts a worker that is due, or kills one that hangs.

        Returns why a worker could not be started; the next try is scheduled, unless `has_given_up`.
        """
        if self._current is not None:
            if now - self._watched_at > SILENT_AFTER_S:
                # The agent stood still as well, such as in a paused container, so the silence says nothing.
                self._current.heard_at = now
            self._current.kill_if_silent(now)
        self._watched_at = now
        return self._restart(now) if self.restart_at is not None and now >= self.restart_at else None

    def _restart(self, now: float) -> str | None:
        self.restart_at = None
        try:
            self.has_changed_files = not self.model.is_unchanged()
        except OSError as error:
            # Deleted, or their disk is gone, so other starts would end the same way.
            self.has_given_up = True
            self.last_end = f"{shown_path(Path(error.filename))} cannot be opened: {error.strerror}"
            return self.last_end
        try:
            if not self.has_changed_files:
                self.start(now)
        except OSError as error:
            log.warning("the worker cannot be started, restart_in_s=%.1f: %s", self._pause_s, error)
            self.last_end = f"not started: {error}"
            self._schedule_restart(now)
            return self.last_end
        return None

    def _schedule_restart(self, now: float) -> None:
        self.restart_at = now + self._pause_s
        self._pause_s = min(max(2 * self._pause_s, RESTART_AFTER_S[0]), RESTART_AFTER_S[1])

    def adopt(self, model: Model, worker: WorkerClient, ready: pipe.Ready, now: float) -> None:
        """Makes a worker that has loaded this model the current one, after `retire`."""
        self.model, self._pause_s = model, RESTART_AFTER_S[0]
        self._current, self.restart_at = _CurrentWorker(worker.process, heard_at=now), None
        worker.hand_over(lambda event: self._deliver(FromWorker(worker.process, event)))
        self.on_ready(ready, now)
        self.set_prefixes(self._prefixes)

    def retire(self) -> bool:
        """Ends the current worker, which is idle, and starts no other; False if none was there or due."""
        had_worker = self._current is not None or self.restart_at is not None
        self.restart_at = None
        if self._current is not None:
            self._retired, self._current = self._current.process, None
            self._retired.kill()
        return had_worker

    def schedule_restart_now(self, now: float) -> None:
        """Loads the same model again at once, after `retire`."""
        self.restart_at = now

    def stop(self, timeout_s: float) -> None:
        """Ends the workers for good. All events have been delivered when it returns."""
        for process in (self._retired, None if self._current is None else self._current.process):
            if process is not None:
                process.stop(timeout_s)
