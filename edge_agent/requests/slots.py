"""The requests that run, and how many each model may run at once."""

from collections import Counter

from edge_agent.board.governor import NO_LIMITS, Limits
from edge_agent.core.model import Model
from edge_agent.core.pipe import STUDENT_SLOTS, Ready
from edge_agent.requests.forecast import Forecast
from edge_agent.requests.queue import EngineLoad
from edge_agent.requests.request import LARGE, Request


class Slots:
    """`limits` are the governor's; they hold for what is admitted, started and answered from now on."""

    def __init__(self, forecast: Forecast) -> None:
        self.active: dict[int, Request] = {}
        self.limits: Limits = NO_LIMITS
        self.model: Model | None = None
        self._forecast = forecast
        self._slots_by_model: dict[str, int] = {}  # By the model's name; empty while there is no worker.
        self._ready_at: float | None = None  # When there will be a worker, if that is known.

    def on_worker_ready(self, model: Model, ready: Ready) -> None:
        """Opens the slots of a worker that answers with this model."""
        self.model = model
        self._slots_by_model = {LARGE: ready.max_active, **{student.name: STUDENT_SLOTS for student in model.students}}

    def on_worker_lost(self, ready_at: float | None) -> list[Request]:
        """Closes the slots until `ready_at`, if that is known. Returns the requests that ran."""
        self._slots_by_model, self._ready_at = {}, ready_at
        lost, self.active = self.active, {}
        return list(lost.values())

    @property
    def has_worker(self) -> bool:
        return bool(self._slots_by_model)

    def capacity_of(self, model: str) -> int:
        """How many requests this model may run at once."""
        slots = self._slots_by_model.get(model, 0)
        return slots if self.limits.max_active is None else min(slots, self.limits.max_active)

    def free_models(self) -> set[str]:
        """The models that may start another request."""
        running = Counter(request.answerer for request in self.active.values())
        return {model for model in self._slots_by_model if running[model] < self.capacity_of(model)}

    def engine_load(self, now: float, model: str = LARGE) -> EngineLoad:
        active = [request for request in self.active.values() if request.answerer == model]
        at_once = len(active)
        # The rest have been answered early (expired or cancelled), and end at the worker's next step.
        running = [request for request in active if not request.is_answered]
        left_s = (
            self._forecast.engine_time_s(request.cost_class) - (now - request.started_at) / at_once
            for request in running
        )
        work_s = sum(max(0.0, seconds) for seconds in left_s)
        loading_s = None if self._slots_by_model or self._ready_at is None else max(0.0, self._ready_at - now)
        return EngineLoad(slots=self.capacity_of(model), running=at_once, work_s=work_s, loading_s=loading_s)
