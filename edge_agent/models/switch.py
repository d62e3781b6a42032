"""A model switch: verify the bundle, make room, load it, ask its canaries, record it; then it is in force.

Any fault before the record is on the disk leaves the old model in force. The old worker finishes what it runs and ends:
before the new one loads where memory is short, otherwise after the new one has answered its canaries. Hashing, loading
and writing happen in background threads; all else in the agent's thread.
"""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge_agent.board.process import resident_mb
from edge_agent.core.background import in_background
from edge_agent.core.clock import is_expired, timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import Config
from edge_agent.core.model import Model, ModelError, RevokedError
from edge_agent.core.pipe import Ready
from edge_agent.core.wording import printable, shown, shown_path
from edge_agent.models import record
from edge_agent.models.bundle import MANIFEST_FILE, path_fault
from edge_agent.models.canaries import CanaryError, RenderedCanaries
from edge_agent.models.trial import load_and_ask, open_with_canaries
from edge_agent.models.trust import keep_revocations, read_trust
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.worker.client import Answered, WorkerClient, WorkerError
from edge_agent.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

_MAX_NAMED = 10

_T = TypeVar("_T")
# Advances at each tick of the agent.
_Steps = Generator[None, None, _T]


@dataclass(frozen=True, slots=True)
class Switched:
    """Another model is in force."""

    ready: Ready
    event: dict[str, Any]
    """The document of `event/model-switched`."""
    data: dict[str, Any]
    """The command's result."""


@dataclass(frozen=True, slots=True)
class SwitchFailed:
    """The old model is in force."""

    error: CommandError
    event: dict[str, Any]
    """The document of `event/model-switch-failed`."""


@dataclass(slots=True)
class _Attempt:
    source: Path
    how: Literal["switch", "rollback"]
    allow_downgrade: bool
    by: str | None
    """Who sent the command. It is not checked."""
    changed_at: str | None = None
    """When the new model was recorded."""
    worker: WorkerClient | None = None
    """The new model's."""
    runs_beside: bool = True
    """Whether both workers are loaded at once."""
    has_old_ended: bool = False
    """Whether an old worker was retired, which starts again if the attempt fails."""


class ModelSwitch:
    """At most one switch at a time. `tick` advances it and gives its end."""

    def __init__(
        self, config: Config, supervisor: Supervisor, dispatcher: Dispatcher, spare_mb: Callable[[float], float | None]
    ) -> None:
        """`spare_mb` gives the memory that can be taken before the board is short of it, if that is known."""
        self._config = config
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._spare_mb = spare_mb
        self._attempt: _Attempt | None = None
        self._steps: _Steps[Switched] | None = None
        self._now = 0.0
        last = record.read_record(config)
        self._previous = None if last is None else last.previous
        # The version that the last switch or rollback put in force; it may not be the one that runs.
        self._min_version = 0 if last is None else last.least_version
        self._changed = (None, None) if last is None else (last.changed_at, last.changed_by)

    @property
    def is_underway(self) -> bool:
        return self._attempt is not None

    @property
    def previous(self) -> Path | None:
        """What a rollback returns to; None after a start that fell back to it."""
        return None if self._previous == self._supervisor.model.source else self._previous

    def describe(self) -> dict[str, Any]:
        """What the model's entry in `info` says of switches."""
        changed_at, changed_by = (None, None) if self._supervisor.model.is_fallback else self._changed
        previous = self.previous and self.previous.name
        return {"previous": previous, "changed_at": changed_at, "changed_by": changed_by}

    def start(self, bundle: str, *, allow_downgrade: bool, by: str | None = None) -> bool:
        """Starts a switch to a folder in models_dir; False if this model runs already. Raises CommandError."""
        source = self._config.models_dir / bundle
        # Path.is_dir raises for a name that is too long.
        if not os.path.isdir(source):  # noqa: PTH112
            names = sorted(path.parent.name for path in self._config.models_dir.glob(f"*/{MANIFEST_FILE}"))
            available = ", ".join(map(shown, names[:_MAX_NAMED])) or "there is none"
            where = f"models_dir, {shown_path(self._config.models_dir)}"
            raise CommandError(
                CommandCode.NOT_FOUND, f"bundle: should be a folder in {where}: {available} (got {shown(bundle)})"
            )
        return self._start(_Attempt(source.resolve(), "switch", allow_downgrade, by))

    def roll_back(self, *, by: str | None = None) -> bool:
        """As `start`, to the model that was in force before the last switch."""
        if self.previous is None:
            raise CommandError(CommandCode.NO_PREVIOUS, "there is no switch to undo")
        return self._start(_Attempt(self.previous, "rollback", allow_downgrade=True, by=by))

    def _start(self, attempt: _Attempt) -> bool:
        if self._attempt is not None:
            raise CommandError(CommandCode.SWITCHING, "another switch is still under way")
        model = self._supervisor.model
        with suppress(OSError):
            # A fallback is not in force yet, since the record names another model. It is switched to like any other.
            if model.source == attempt.source and not model.is_fallback and model.is_unchanged():
                return False
        log.info("model %s starts source=%s", attempt.how, shown_path(attempt.source))
        self._attempt, self._steps = attempt, self._run(attempt)
        return True

    def tick(self, now: float) -> Switched | SwitchFailed | None:
        """To be called several times a second."""
        if self._attempt is None or self._steps is None:
            return None
        self._now = now
        try:
            next(self._steps)
        except StopIteration as end:
            self._attempt = self._steps = None
            switched: Switched = end.value
            return switched
        except CommandError as error:
            return self._return_to_old(self._attempt, error)
        except Exception:
            log.exception("a model switch failed")
            bug = CommandError(CommandCode.INTERNAL, "the switch failed because of a bug in the agent")
            return self._return_to_old(self._attempt, bug)
        return None

    def stop(self, now: float) -> SwitchFailed | None:
        """For the end of the agent; what is not in force is given up."""
        self._now = now
        if self._attempt is None:
            return None
        message = "the agent was stopped before the new model was in force"
        return self._return_to_old(self._attempt, CommandError(CommandCode.STOPPING, message))

    def _run(self, attempt: _Attempt) -> _Steps[Switched]:
        """The switch from its start to its end. Raises CommandError."""
        model, canaries = yield from self._verify(attempt)
        attempt.runs_beside = self._fits_beside(model)
        if not attempt.runs_beside:
            yield from self._end_old_worker(attempt)
            while self._supervisor.has_retired:
                yield
        ready, answers = yield from self._load_and_check(attempt, model, canaries)
        if attempt.runs_beside:
            yield from self._end_old_worker(attempt)
        self._dispatcher.admission.answerers.keep_trial(model, answers)
        yield from self._record(attempt, model)
        return self._put_in_force(attempt, model, ready, None if canaries is None else len(canaries.requests))

    def _verify(self, attempt: _Attempt) -> _Steps[tuple[Model, RenderedCanaries | None]]:
        if fault := path_fault(attempt.source):
            raise CommandError(CommandCode.BUNDLE_REFUSED, f"bundle: {fault}")
        try:
            model, canaries = yield from _await_result(lambda: self._open(attempt))
        except RevokedError as error:
            raise CommandError(CommandCode.REVOKED, str(error)) from error
        except (ModelError, CanaryError, OSError) as error:
            raise CommandError(CommandCode.BUNDLE_REFUSED, str(error)) from error
        if attempt.how == "switch" and model.expires is not None and is_expired(model.expires):
            message = f"the bundle expired on {model.expires}; convert and sign it again with a later --expires"
            raise CommandError(CommandCode.EXPIRED, message)
        old = self._supervisor.model
        # A fallback stands in for the recorded bundle, which is the older one if the last switch was a rollback. A
        # record of 0.1.0 does not say its version.
        running = 0 if old.is_fallback and self._min_version else old.version or 0
        if not attempt.allow_downgrade and (model.version or 0) < max(running, self._min_version):
            which = "the running one" if running >= self._min_version else "the least version since the last switch"
            message = f"version {model.version} is older than {max(running, self._min_version)}, {which}"
            raise CommandError(CommandCode.DOWNGRADE, f"{message}; `allow_downgrade` permits it")
        return model, canaries

    def _open(self, attempt: _Attempt) -> tuple[Model, RenderedCanaries | None]:
        """In a background thread. Raises CommandError, ModelError, RevokedError, CanaryError, OSError."""
        configured, state_dir = self._config.models["default"], self._config.state_dir
        trust = read_trust(configured, state_dir)
        # A rollback stays possible: it is checked against whichever list can still be used.
        if trust.fault and attempt.how == "switch":
            raise CommandError(CommandCode.REVOCATIONS_FAULTY, trust.fault)
        keep_revocations(state_dir, trust)
        return open_with_canaries(attempt.source, configured, trust)

    def _fits_beside(self, model: Model) -> bool:
        ready = self._supervisor.ready
        wanted_mb = needed_mb(model, self._supervisor.model, None if ready is None else resident_mb(ready.pid))
        spare_mb = self._spare_mb(self._now)
        if spare_mb is not None and wanted_mb <= spare_mb:
            return True
        log.info("the old model goes first: needed_mb=%.0f spare_mb=%s", wanted_mb, spare_mb)
        return False

    def _end_old_worker(self, attempt: _Attempt) -> _Steps[None]:
        self._dispatcher.is_paused = True
        while self._dispatcher.active:
            yield
        attempt.has_old_ended = self._supervisor.retire()
        self._dispatcher.on_worker_lost("its model is replaced", self._now)

    def _load_and_check(
        self, attempt: _Attempt, model: Model, canaries: RenderedCanaries | None
    ) -> _Steps[tuple[Ready, list[Answered]]]:
        """Also gives the answers to what the answerers ask of a new model."""
        try:
            attempt.worker = worker = WorkerClient(self._supervisor.load_command(model))
        except OSError as error:
            raise CommandError(CommandCode.LOAD_FAILED, f"no worker can be started: {error.strerror}") from error
        requests = self._dispatcher.admission.answerers.trial_requests(model)
        try:
            ready, differences, answers = yield from _await_result(lambda: load_and_ask(worker, canaries, requests))
        except WorkerError as error:
            raise CommandError(CommandCode.LOAD_FAILED, str(error)) from error
        if differences:
            raise CommandError(CommandCode.CANARIES_DIFFER, differences[0])
        return ready, answers

    def _record(self, attempt: _Attempt, model: Model) -> _Steps[None]:
        """From its end on, a start of the agent takes the new model."""
        attempt.changed_at = timestamp()
        after = record.Record(
            configured=self._config.models["default"].path,
            current=model.source,
            previous=self._previous_after(attempt),
            least_version=model.version or 0,
            changed_at=attempt.changed_at,
            changed_by=attempt.by,
        )
        old = self._supervisor.model

        def write() -> None:
            if not model.is_unchanged():
                raise CommandError(CommandCode.NOT_RECORDED, "the bundle was changed while it was being loaded")
            # Loading takes minutes, in which a newer list may have come.
            trust = read_trust(self._config.models["default"], self._config.state_dir)
            if revocation := trust.revocation(model.manifest_sha256, model.signed_by):
                raise CommandError(CommandCode.REVOKED, f"bundle: {revocation}")
            record.write_record(self._config.state_dir, after)
            record.remove_other_engine_states(self._config.state_dir, [old, model])

        try:
            yield from _await_result(write)
        except OSError as error:
            raise CommandError(CommandCode.NOT_RECORDED, f"{self._config.state_dir}: {error.strerror}") from error
        except ModelError as error:  # a key has gone meanwhile
            raise CommandError(CommandCode.BUNDLE_REFUSED, str(error)) from error

    def _previous_after(self, attempt: _Attempt) -> Path | None:
        """A bundle that was replaced in its own folder cannot be returned to."""
        old = self._supervisor.model.source
        return self.previous if old == attempt.source else old

    def _put_in_force(self, attempt: _Attempt, model: Model, ready: Ready, canary_count: int | None) -> Switched:
        assert attempt.worker is not None
        old, self._previous = self._supervisor.model, self._previous_after(attempt)
        self._min_version = model.version or 0
        self._changed = (attempt.changed_at, attempt.by)
        self._supervisor.adopt(model, attempt.worker, ready, self._now)
        self._dispatcher.on_model_replaced(model)
        log.info("model %s is in force source=%s", attempt.how, shown_path(attempt.source))
        event = {
            "model": model.key,
            "how": attempt.how,
            "old": old.identity(),
            "new": model.identity(),
            "by": attempt.by,
        }
        if unserved := self._dispatcher.unserved_tasks(model):
            log.warning("%s has no model for these tasks, so they are not answered: %s", model.key, ", ".join(unserved))
        data = {
            "changed": True,
            **event,
            "canaries": canary_count,
            "is_beside": attempt.runs_beside,
            "unserved_tasks": unserved,
        }
        return Switched(ready, event, data)

    def _return_to_old(self, attempt: _Attempt, error: CommandError) -> SwitchFailed:
        """The old worker goes on, or its model is loaded again."""
        self._attempt = self._steps = None
        log.warning("model %s failed code=%s: %s", attempt.how, error.code, error.message)
        if attempt.worker is not None:
            attempt.worker.process.kill()
        if attempt.has_old_ended:
            self._supervisor.schedule_restart_now(self._now)
            ready_at = self._supervisor.next_ready_at
            self._dispatcher.on_worker_lost("another model was tried", self._now, ready_at=ready_at)
        self._dispatcher.is_paused = False
        self._dispatcher.fill_slots(self._now)
        bundle = printable(attempt.source.name)
        event = {"how": attempt.how, "bundle": bundle, "code": error.code, "message": error.message, "by": attempt.by}
        return SwitchFailed(error, event)


def needed_mb(new: Model, old: Model, worker_mb: float | None) -> float:
    """Memory for a worker of the new model, in MB. The old model's worker holds `worker_mb`, None without a worker."""
    if worker_mb is None or not old.size_bytes:
        return new.likely_worker_mb
    return worker_mb * max(1.0, new.size_bytes / old.size_bytes)


def _await_result(task: Callable[[], _T]) -> _Steps[_T]:
    """Runs the task in the background while the agent ticks; gives its result or raises its exception."""
    running = in_background("model-switch", task)
    while not running.done():
        yield
    return running.result()
