"""The worker's life: started, ready, silent or ended, started again after a pause that grows, replaced by another.

Decides about the worker process only; what its life means for requests and for the bus is the agent's to do.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.board.process import oom_kills, process_memory, resident_mb
from edge_agent.core.background import in_background
from edge_agent.core.config import Config
from edge_agent.core.errors import end_of_log, how_ended
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.model import Model, ModelError
from edge_agent.core.protocol import (
    Cancel,
    Command,
    EngineSettings,
    Event,
    Load,
    LoadPhase,
    Ready,
    SetTasks,
    TaskPrefix,
)
from edge_agent.worker.memory_bound import WorkerMemory
from edge_agent.worker.process import EngineProcess, WorkerExited
from edge_agent.worker.throughput import Throughput

log = logging.getLogger(__name__)

# Shortest and longest pause before a new worker; one that was ready for this long before it died is replaced at once.
RESTART_AFTER_S = (1.0, 30.0)
STABLE_AFTER_S = 60.0
# Between two steps the worker tells of itself each second; the longest step is a full batch of a 3B model on a Pi 4.
SILENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a worker ended. log: its last words on one line.

    ready_at: when the next one is likely to answer; None = unknown, or there is none to come. is_out_of_memory: the
    kernel ended it, or another process of the service, for want of memory. is_replaced: the agent chose to end it, and
    nothing that it ran is why.
    """

    how: str
    log: str
    ready_at: float | None
    is_out_of_memory: bool = False
    is_replaced: bool = False

    def __str__(self) -> str:
        return f"{self.how}: {self.log}" if self.log else self.how


@dataclass(frozen=True, slots=True)
class FromWorker:
    """An event, and the process that it came from."""

    worker: EngineProcess
    event: Event | WorkerExited


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """The worker in force and its model at one moment. None = unknown, or there is none.

    ready: what the worker reported, while one answers. previous: the model in force before, that a rollback returns to.
    last_end: how the worker before ended. silent_s: time since its last event. memory_bound_mb: memory at which it is
    replaced. memory_excess: too much memory, in words.
    """

    ready: Ready | None
    model: Model
    previous: Path | None
    restarts: int
    last_end: str | None
    silent_s: float | None
    resident_mb: float | None
    memory_bound_mb: float | None
    memory_excess: str | None
    throughput: Throughput


class Supervisor:
    """The worker in force, of one model; beside it at times a candidate of another, and the one that it has replaced.

    Belongs to the agent's thread. now: seconds of the monotonic clock. deliver: as of EngineProcess, of all workers.
    open_model: checks and gives the model that a start of the agent would run; raises ModelError.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        tasks: tuple[TaskPrefix, ...],
        deliver: Callable[[FromWorker], None],
        open_model: Callable[[], Model],
    ) -> None:
        self.model = model
        # What was in force before it: what a rollback goes back to.
        self.previous: Path | None = None
        # What was in force until other files were found in its place; None once that is told.
        self.replaced: Model | None = None
        # What the worker has told of itself; None while none answers.
        self.ready: Ready | None = None
        self.restarts = 0
        self.last_end: End | None = None
        self.restart_at: float | None = None
        # While it is brought to the disk which model is in force: a new worker would have to guess.
        self.is_deciding = False
        # The first worker found the model unusable: no other one would do better.
        self.has_given_up = False
        # While the worker loads: what it last told to be at.
        self.load_phase = LoadPhase.PROGRAM
        self.memory = WorkerMemory()
        self.throughput = Throughput()
        # Since when it is to be replaced, as soon as it can be spared, for it holds too much memory.
        self.outgrown_at: float | None = None
        self._config = config
        self._tasks = tasks
        self._deliver = deliver
        self._open_model = open_model
        self.worker: EngineProcess | None = None
        self.candidate: EngineProcess | None = None
        # Ends what runs, or is being ended.
        self.former: EngineProcess | None = None
        self._ready_at: float | None = None
        # How long a worker that died takes to be replaced; None = none was ever ready.
        self._reload_s: float | None = None
        # While the model's files, which are others now, are checked.
        self._opening: Future[Model] | None = None
        self._pause_s = RESTART_AFTER_S[0]
        self._heard_at = 0.0
        # None = it was a candidate.
        self._started_at: float | None = None
        # Why and when the worker was killed by us; None = it was not.
        self._killed_for: str | None = None
        self._outgrown_for = ""
        self._killed_at = 0.0
        self._oom_kills: int | None = None

    @property
    def is_coming(self) -> bool:
        """Whether there is a worker, or will be one."""
        workers = (self.worker, self.candidate, self.former)
        is_due = self.restart_at is not None or self._opening is not None
        return is_due or any(worker is not None and worker.is_running for worker in workers)

    def snapshot(self, now: float) -> WorkerFacts:
        return WorkerFacts(
            ready=self.ready,
            model=self.model,
            previous=self.previous,
            restarts=self.restarts,
            last_end=None if self.last_end is None else self.last_end.how,
            silent_s=self.silent_s(now),
            resident_mb=None if self.ready is None else resident_mb(self.ready.pid),
            memory_bound_mb=self.memory.bound_mb,
            memory_excess=self.memory.excess,
            throughput=replace(self.throughput),
        )

    def silent_s(self, now: float) -> float | None:
        """None = no worker is ready."""
        return None if self.ready is None else now - self._heard_at

    def dying_s(self, now: float) -> float | None:
        """How long ago the worker was killed that is still there; None = none is."""
        is_dying = self._killed_for is not None and self.worker is not None and self.worker.is_running
        return now - self._killed_at if is_dying else None

    def start(self, now: float) -> None:
        """Raises OSError if there can be no process."""
        self.worker = self._started(self.model, is_restart=self.restarts > 0)
        self._another(now)
        self._started_at = now

    def _another(self, now: float) -> None:
        """The worker is a new one."""
        self._heard_at = now
        self._started_at = self._killed_for = self.outgrown_at = None
        self.load_phase = LoadPhase.PROGRAM
        self.memory.another()
        self._oom_kills = oom_kills()

    def _started(self, model: Model, *, is_restart: bool) -> EngineProcess:
        load = Load(
            model_path=str(model.path),
            settings=EngineSettings(**self._config.engine.model_dump()),
            tasks=self._tasks,
            model_sha256=model.name.sha256,
            adapters=model.adapters,
            state_dir=str(model.engine_state(self._config.state_dir)),
            is_restart=is_restart,
        )
        process = EngineProcess(load, lambda event: self._deliver(FromWorker(process, event)))
        # Only one that was started can be stopped.
        process.start()
        log.info("worker pid=%s loads %s; its steps are measured if they never were", process.pid, model.path)
        return process

    def send(self, command: Command) -> None:
        """Never waits. Without a worker nobody hears it."""
        if self.worker is not None:
            self.worker.send(command)
        if self.former is not None and isinstance(command, Cancel):
            self.former.send(command)

    def try_out(self, model: Model) -> None:
        """Starts a candidate. Raises OSError if there can be no process."""
        self.candidate = self._started(model, is_restart=False)

    def discard(self) -> None:
        """Ends the candidate; what it still says is nobody's."""
        if self.candidate is not None:
            self.candidate.kill()
            self.candidate = None

    def adopt(self, model: Model, ready: Ready, now: float) -> None:
        """The candidate, which is ready, is the worker from now on; the one before it may end what it runs."""
        assert self.candidate is not None
        self.former, self.worker, self.candidate = self.worker or self.former, self.candidate, None
        self.model = model
        self.restart_at = self._opening = self.replaced = None
        self._pause_s = RESTART_AFTER_S[0]
        self._another(now)
        self.became_ready(ready, now)
        self.set_tasks(self._tasks)

    def let_go(self) -> None:
        """Ends the worker without another in its place; its end is told as that of `former`, if it has not ended."""
        self.ready = self._ready_at = self.restart_at = self._opening = self.outgrown_at = None
        if self.worker is not None:
            self.former, self.worker = self.worker, None
            self.former.kill()

    def come_back(self, now: float) -> float | None:
        """After `let_go`: the same model is loaded again. When it is likely to answer; None = unknown."""
        self.restart_at = now
        return None if self._reload_s is None else now + self._reload_s

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        """For the worker that runs, and for all after it."""
        self._tasks = tasks
        self.send(SetTasks(tasks=tasks))

    def stop(self, timeout_s: float) -> None:
        """For good, as EngineProcess does."""
        self.discard()
        for process in (self.former, self.worker):
            if process is not None:
                process.stop(timeout_s)

    def heard(self, now: float) -> None:
        """The worker gave a sign of life."""
        self._heard_at = now

    def became_ready(self, ready: Ready, now: float) -> None:
        self.ready, self._ready_at = ready, now
        self.throughput.worker_started()
        # With the start of the process, which on a board takes seconds.
        start_s = ready.load_s if self._started_at is None else now - self._started_at
        self._reload_s = start_s - ready.measure_s
        log.info("model ready load_s=%.2f threads=%d repacked_mib=%s", ready.load_s, ready.threads, ready.repacked_mib)

    def load_failed(self, message: str) -> None:
        """Its end follows: a model that was loaded before is tried again."""
        log.error("the model cannot be loaded: %s", message)
        self.has_given_up = self._reload_s is None

    def ended(self, event: WorkerExited, now: float) -> End:
        if self._ready_at is not None and now - self._ready_at > STABLE_AFTER_S:
            self._pause_s = 0.0
        self.worker = self.ready = self._ready_at = self.outgrown_at = None
        how, is_out_of_memory = self._how_ended(event.returncode)
        is_replaced = self._killed_for is not None and self._killed_for == self._outgrown_for
        end = End(
            how=how,
            log=end_of_log(event.log_tail),
            ready_at=self._next_ready_at(now),
            is_out_of_memory=is_out_of_memory,
            is_replaced=is_replaced,
        )
        self.last_end = end
        if not self.has_given_up:
            log.error("worker ended: %s restart_in_s=%.1f log=%s", end.how, self._pause_s, end.log or "nothing")
            self.restarts += 1
            self._schedule(now)
        return end

    def _how_ended(self, returncode: int) -> tuple[str, bool]:
        """In words, and whether memory was short."""
        if returncode != -signal.SIGKILL:
            return how_ended(returncode), False
        if self._killed_for is not None:
            return f"killed by the agent: {self._killed_for}", False
        before, after = self._oom_kills, oom_kills()
        is_out_of_memory = before is not None and after is not None and after > before
        return how_ended(returncode) + (", the kernel was out of memory" if is_out_of_memory else ""), is_out_of_memory

    def weigh(self, available_mb: float | None, now: float) -> None:
        """To be called once a second: looks at the worker's memory. available_mb: of the board; None = unknown."""
        # What it holds once it is to be replaced changes nothing, nor puts it off.
        if self.ready is None or self._killed_for is not None or self.outgrown_at is not None:
            return
        memory = process_memory(self.ready.pid)
        if memory is None:
            return
        used_mb, asked_mb = (1.048576 * mib for mib in (memory.anonymous_mib + memory.swapped_mib, memory.data_mib))
        if self.memory.observe(used_mb, asked_mb, available_mb, now):
            assert self.memory.excess is not None
            self.outgrown_at, self._outgrown_for = now, self.memory.excess
            log.warning("%s: it is replaced when it has ended what it runs", self._outgrown_for)

    def replace_outgrown(self, now: float) -> None:
        """Ends a worker that holds too much memory; once."""
        if self._killed_for is None:
            self._kill(self._outgrown_for, now)

    def watch(self, now: float, *, owes_answer: bool) -> End | None:
        """To be called several times a second: a worker that is due is started, one that is stuck is killed.

        Gives how one ended that could not even be started; it is tried again.
        """
        if self.restart_at is not None and now >= self.restart_at and not self.is_deciding:
            self.restart_at = None
            return self._restart(now)
        if self._opening is not None and self._opening.done():
            opened, self._opening = self._opening, None
            return self._restart(now, opened)
        if self.worker is None or self._killed_for is not None:
            return None
        silent_s = now - self._heard_at
        if self.ready is None and silent_s >= LOAD_SILENCE_S:
            self._kill(f"its load ({self.load_phase.value}) did not get on for {LOAD_SILENCE_S:.0f} s", now)
        elif self.ready is not None and owes_answer and silent_s >= SILENCE_S:
            self._kill(f"it said nothing for {SILENCE_S:.0f} s while it owed an answer", now)
        return None

    def _kill(self, reason: str, now: float) -> None:
        assert self.worker is not None
        log.error("the worker is killed: %s", reason)
        self._killed_for, self._killed_at = reason, now
        self.worker.kill()

    def _restart(self, now: float, opened: Future[Model] | None = None) -> End | None:
        """Files that are others now are checked first, which may take minutes: `opened` is what came of that."""
        try:
            if opened is not None:
                self._take(opened.result())
            elif self._is_changed():
                self._opening = in_background("model-open", self._open_model)
                return None
            self.start(now)
        except (ModelError, OSError) as error:
            fault = (isinstance(error, OSError) and error.strerror) or str(error)
            log.warning("the worker cannot be started, restart_in_s=%.1f: %s", self._pause_s, fault)
            self.last_end = End(how=f"not started: {fault}", log="", ready_at=self._next_ready_at(now))
            self._schedule(now)
            return self.last_end
        return None

    def _is_changed(self) -> bool:
        try:
            return not self.model.is_unchanged()
        except OSError:  # to open it tells better what is wrong
            return True

    def _take(self, model: Model) -> None:
        """What a start of the agent would take as well: other files in the model's place, or the bundle before it."""
        before, self.model = self.replaced or self.model, model
        if self.previous == model.source:
            self.previous = None
        # The same files may have been copied anew.
        is_other = not model.has_content_of(before)
        self.replaced = before if is_other else None
        if is_other:
            log.warning(
                "what lies in %s is loaded from now on: version=%s, was %s; sha256=%s, was %s",
                model.source, model.version, before.version, model.sha256, before.sha256,
            )  # fmt: skip

    def _next_ready_at(self, now: float) -> float | None:
        return None if self._reload_s is None else now + self._pause_s + self._reload_s

    def _schedule(self, now: float) -> None:
        self.restart_at = now + self._pause_s
        self._pause_s = min(max(2 * self._pause_s, RESTART_AFTER_S[0]), RESTART_AFTER_S[1])
