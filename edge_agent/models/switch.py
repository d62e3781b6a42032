"""A model takes the place of another: verified, loaded, asked its canaries, recorded, and only then in force.

Until it is recorded, any fault leaves the old model where it was. Where memory is short, the old one ends what it runs
and goes first. Belongs to the agent's thread; what may take long (hashes, the disk) is done by a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.board.process import resident_mb
from edge_agent.core.config import Config
from edge_agent.core.errors import end_of_log, how_ended, shown, shown_path
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.protocol import Cancelled, Failed, Finished, LoadFailed, Partial, Ready, Refused
from edge_agent.models import record as model_record
from edge_agent.models.bundle import MANIFEST_FILE
from edge_agent.models.switch_attempt import (
    Answer,
    Attempt,
    How,
    Opened,
    Phase,
    Recorded,
    SwitchError,
    needed_mb,
    open_bundle,
    record,
)
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.worker.process import WorkerExited
from edge_agent.worker.supervisor import SILENCE_S, FromWorker, Supervisor

log = logging.getLogger(__name__)

_STOP_S = 5.0
_MOST_NAMED = 10
# A disk that gives nothing for so long will not answer any more; a process that was killed so long ago, and is still
# there, hangs in the kernel.
READ_SILENCE_S = 300.0
DYING_S = 60.0
# By phase: how long it may stand still, what the switch fails with then, and why. Requests may take their time.
_LIMITS = {
    Phase.VERIFYING: (READ_SILENCE_S, "bundle_refused", "the disk gave nothing more of the bundle"),
    Phase.WAITING: (DYING_S, "load_failed", "the worker that the last switch replaced was killed and did not end"),
    Phase.ENDING: (DYING_S, "load_failed", "the old worker was killed and did not end"),
    Phase.LOADING: (LOAD_SILENCE_S, "load_failed", "the new worker did not get on"),
    Phase.ASKING: (SILENCE_S, "load_failed", "the new worker did not get on"),
}


class ModelSwitch:
    """One switch at a time. deliver: puts an event into the agent's inbox, which gives it to `hear`.

    spare_mb: memory that may be taken before the board is short of it; None = unknown. adopted: called when another
    model's worker has become the one in force, with the event to tell; failed: with the event, when none has.
    worker_exited: when it has ended just before.
    """

    def __init__(
        self,
        config: Config,
        *,
        supervisor: Supervisor,
        dispatcher: Dispatcher,
        deliver: Callable[[Opened | Recorded], None],
        spare_mb: Callable[[float], float | None],
        adopted: Callable[[dict[str, Any], Ready, float], None],
        failed: Callable[[dict[str, Any]], None],
        worker_exited: Callable[[WorkerExited, float], None],
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._deliver = deliver
        self._spare_mb = spare_mb
        self._adopted = adopted
        self._failed = failed
        self._worker_exited = worker_exited
        self._attempt: Attempt | None = None
        self._thread: threading.Thread | None = None
        record = model_record.read(config)
        found = None if record is None else record.previous
        # At a start that had to take it, there is nothing left.
        supervisor.previous = None if found == supervisor.model.source else found

    @property
    def phase(self) -> Phase | None:
        """None = there is no switch."""
        return None if self._attempt is None else self._attempt.phase

    @property
    def is_holding(self) -> bool:
        """Whether requests wait for its end, as there is no memory for two models."""
        return self._attempt is not None and not self._attempt.is_beside

    def switch(self, bundle: str, *, allow_downgrade: bool, now: float, answer: Answer) -> None:
        """Raises SwitchError if it does not begin; else `answer` is called once."""
        source = self._config.models_dir / bundle
        try:
            is_folder = source.is_dir()
        except OSError as error:  # no folder can have the name, say
            message = f"bundle: should be a folder in models_dir: {error.strerror} (got {shown(bundle)})"
            raise SwitchError("bad_field", message) from error
        if not is_folder:
            there = _bundles_in(self._config.models_dir)
            raise SwitchError("not_found", f"bundle: should be a folder in models_dir: {there} (got {shown(bundle)})")
        self._begin(Attempt(source.resolve(), How.SWITCH, allow_downgrade, answer, now))

    def roll_back(self, *, now: float, answer: Answer) -> None:
        """As `switch`, to what was in force before the last one."""
        previous = self._supervisor.previous
        if previous is None:
            raise SwitchError("no_previous", "there was no switch that could be undone")
        self._begin(Attempt(previous, How.ROLLBACK, allow_downgrade=True, answer=answer, since=now))

    def hear(self, event: FromWorker | Opened | Recorded, now: float) -> None:
        """Takes in what a thread has done, or what a worker says that is not the one in force."""
        attempt = self._attempt
        if isinstance(event, FromWorker):
            if event.worker is self._supervisor.former:
                self._hear_former(event, now)
            elif attempt is not None and event.worker is self._supervisor.candidate:
                self._hear_candidate(attempt, event, now)
        elif event.attempt is attempt:
            if isinstance(event, Opened):
                self._on_opened(attempt, event, now)
            else:
                self._on_recorded(attempt, event, now)

    def tick(self, now: float) -> None:
        """To be called several times a second."""
        former, attempt = self._supervisor.former, self._attempt
        if former is not None and not self._dispatcher.is_former_busy:
            # Nothing is left in it that is worth an orderly end; its WorkerExited follows.
            former.kill()
        if attempt is None:
            return
        if attempt.phase is Phase.WAITING and self._supervisor.former is None:
            self._make_room(attempt, now)
        if attempt.phase is Phase.DRAINING and not self._dispatcher.active:
            self._supervisor.let_go()
            self._dispatcher.worker_lost("its model is replaced", now)
            attempt.phase, attempt.since = Phase.ENDING, now
        if attempt.phase is Phase.ENDING and self._supervisor.former is None:
            self._load(attempt, now)
        attempt.look(now)
        if attempt.phase is Phase.WAITING and self._dispatcher.is_former_busy:
            attempt.since = now
        limit = _LIMITS.get(attempt.phase)
        if limit is not None and now - attempt.since > limit[0]:
            limit_s, code, message = limit
            self._fail(attempt, code, f"{message} for {limit_s:.0f} s", now)

    def stop(self, now: float) -> None:
        """The agent ends: what is not recorded by now is given up."""
        attempt = self._attempt
        if attempt is None:
            return
        if attempt.phase is Phase.RECORDING and self._thread is not None:
            self._thread.join(_STOP_S)
            if model_record.in_force(self._config) == attempt.source:
                self._on_recorded(attempt, Recorded(attempt), now)
                return
        self._fail(attempt, "stopping", "the agent was stopped before the new model was in force", now)

    def _begin(self, attempt: Attempt) -> None:
        if self._attempt is not None:
            raise SwitchError("switching", "one switch at a time: another one is not done yet")
        model = self._supervisor.model
        with suppress(OSError):
            # What runs for want of another is asked for by name now.
            if model.source == attempt.source and not model.is_fallback and model.is_unchanged():
                attempt.answer({"changed": False})
                return
        log.info("model %s begins source=%s", attempt.how.value, shown_path(attempt.source))
        self._attempt = attempt
        configured = self._config.models["default"]
        self._in_background(lambda: open_bundle(attempt, configured))

    def _in_background(self, work: Callable[[], Opened | Recorded]) -> None:
        self._thread = threading.Thread(target=lambda: self._deliver(work()), name="model-switch", daemon=True)
        self._thread.start()

    def _on_opened(self, attempt: Attempt, event: Opened, now: float) -> None:
        old = self._supervisor.model
        if event.model is None:
            assert event.error is not None
            self._fail(attempt, event.error.code, event.error.message, now)
            return
        attempt.model, attempt.canaries = event.model, event.canaries
        if not attempt.allow_downgrade and (event.model.version or 0) < (old.version or 0):
            message = f"version {event.model.version} is older than {old.version}, which runs"
            self._fail(attempt, "downgrade", f"{message}; `allow_downgrade` would take it", now)
            return
        attempt.phase, attempt.since = Phase.WAITING, now
        self.tick(now)

    def _make_room(self, attempt: Attempt, now: float) -> None:
        assert attempt.model is not None
        old, ready = self._supervisor.model, self._supervisor.ready
        wanted_mb = needed_mb(attempt.model, old, None if ready is None else resident_mb(ready.pid))
        spare_mb = self._spare_mb(now)
        if spare_mb is not None and wanted_mb <= spare_mb:
            self._load(attempt, now)
            return
        log.info("the old model goes first: needed_mb=%.0f spare_mb=%s", wanted_mb, spare_mb)
        attempt.is_beside, attempt.phase = False, Phase.DRAINING
        self._dispatcher.hold()

    def _load(self, attempt: Attempt, now: float) -> None:
        assert attempt.model is not None
        attempt.phase, attempt.since = Phase.LOADING, now
        try:
            self._supervisor.try_out(attempt.model)
        except OSError as error:
            self._fail(attempt, "load_failed", f"there can be no worker: {error.strerror}", now)
        except Exception:
            log.exception("a worker could not be started")
            self._fail(attempt, "internal", "the new worker met a fault of the agent", now)

    def _hear_candidate(self, attempt: Attempt, event: FromWorker, now: float) -> None:
        attempt.since = now
        match event.event:
            case Ready() as ready:
                attempt.ready, attempt.phase = ready, Phase.ASKING
                self._ask_next(attempt)
            case LoadFailed(message=message):
                self._fail(attempt, "load_failed", message, now)
            case Finished() | Refused() | Failed() as answer if attempt.phase is Phase.ASKING:
                assert attempt.canaries is not None
                difference = attempt.canaries.difference(attempt.asked, answer)
                if difference is not None:
                    self._fail(attempt, "canaries_differ", difference, now)
                    return
                attempt.asked += 1
                self._ask_next(attempt)
            case WorkerExited() as end:
                if attempt.phase is Phase.RECORDING:
                    attempt.end = end
                    return
                words = end_of_log(end.log_tail)
                how = how_ended(end.returncode) + (f": {words}" if words else "")
                self._fail(attempt, "load_failed", f"the new worker ended: {how}", now)

    def _hear_former(self, event: FromWorker, now: float) -> None:
        match event.event:
            case Finished() | Refused() | Failed() | Cancelled() as answer:
                self._dispatcher.finish(answer, now)
            case Partial() as partial:
                self._dispatcher.partial(partial)
            case WorkerExited(returncode=returncode):
                self._supervisor.former = None
                self._dispatcher.former_worker_lost(how_ended(returncode), now)

    def _ask_next(self, attempt: Attempt) -> None:
        """One at a time: what runs beside others may be rounded otherwise."""
        canaries, candidate = attempt.canaries, self._supervisor.candidate
        assert candidate is not None
        if canaries is not None and attempt.asked < len(canaries.canaries):
            candidate.send(canaries.run(attempt.asked, attempt.asked))
            return
        attempt.phase, self._supervisor.is_deciding = Phase.RECORDING, True
        old, previous = self._supervisor.model, self._previous_after(attempt)
        self._in_background(lambda: record(attempt, self._config, old, previous))

    def _previous_after(self, attempt: Attempt) -> Path | None:
        old = self._supervisor.model.source
        # A bundle that was replaced in its own folder is no more.
        return self._supervisor.previous if old == attempt.source else old

    def _on_recorded(self, attempt: Attempt, event: Recorded, now: float) -> None:
        self._supervisor.is_deciding = False
        if event.fault is not None:
            self._fail(attempt, "not_recorded", event.fault, now)
            return
        assert attempt.model is not None
        assert attempt.ready is not None
        old, previous = self._supervisor.model, self._previous_after(attempt)
        self._supervisor.adopt(attempt.model, attempt.ready, now)
        self._dispatcher.model_replaced()
        self._supervisor.previous, self._attempt = previous, None
        log.info("model %s is in force source=%s", attempt.how.value, shown_path(attempt.source))
        self._adopted(attempt.event(old), attempt.ready, now)
        attempt.answer(attempt.result(old))
        if attempt.end is not None:
            self._worker_exited(attempt.end, now)

    def _fail(self, attempt: Attempt, code: str, message: str, now: float) -> None:
        """Rolled back: the old model answers, or is loaded again."""
        self._attempt = None
        log.warning("model %s failed code=%s: %s", attempt.how.value, code, message)
        self._supervisor.discard()
        if not attempt.is_beside and attempt.phase is not Phase.DRAINING:
            ready_at = self._supervisor.come_back(now)
            self._dispatcher.worker_lost("another model was tried", now, ready_at=ready_at)
        self._dispatcher.release(now)
        attempt.answer(error=SwitchError(code, message))
        self._failed(attempt.failed_event(code, message))


def _bundles_in(models_dir: Path) -> str:
    """For who asked for another one."""
    names = sorted(path.parent.name for path in models_dir.glob(f"*/{MANIFEST_FILE}"))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(shown, names[:_MOST_NAMED])) + more if names else "it holds no bundle"
