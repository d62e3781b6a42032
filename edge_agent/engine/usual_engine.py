"""The engine of a bundle's student-NAME.json: answers tasks of the kind `unusual`, each reading in one step.

In a bundle without a large model it stands for that, too, and refuses other tasks.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

from edge_agent.core import pipe
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.kinds.unusual import MAX_FALSE_ALARMS, PLAN
from edge_agent.core.strict_json import compact_json
from edge_agent.engine.engine import Engine, MeasuredRequest, count_start, count_step
from edge_agent.engine.prompt.field_prompts import check_task, check_template
from edge_agent.engine.usual import SCORE_DIGITS, RarityModel
from edge_agent.gguf.field_table import check_has_field, values_of
from edge_agent.gguf.usual_readings import read_usual_readings

log = logging.getLogger(__name__)

# What `info` shows where there is no other model.
_CONTEXT_TOKENS, _BATCH_TOKENS = 4096, 256


class UsualEngine(Engine):
    """Raises OSError, and ValueError for a file that `edge-convert train` did not write."""

    has_priors = False

    def __init__(self, load: pipe.Load, _on_progress: Callable[[], object] = lambda: None) -> None:
        try:
            file = read_usual_readings(Path(load.model_path).read_bytes())
            self._tasks = {name: RarityModel(usual) for name, usual in file.tasks.items()}
        except ValueError as error:
            raise ValueError(f"{load.model_path}: {error}") from error
        self._settings = load.settings
        self._requests: dict[int, pipe.EngineRequest] = {}
        self._totals = pipe.Progress()

    def ready(self, load_s: float) -> pipe.Ready:
        return pipe.Ready(
            pid=os.getpid(),
            context_tokens=self._settings.context_tokens or _CONTEXT_TOKENS,
            max_active=self._settings.max_active,
            threads=1,
            prefill_threads=1,
            batch_tokens=self._settings.batch_tokens or _BATCH_TOKENS,
            vocabulary=0,
            cpu_variant="none",
            repacked_mib=None,
            load_s=load_s,
            measure_s=0.0,
        )

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def set_tasks(self, tasks: tuple[pipe.TaskPrefix, ...]) -> None:
        """Readings have no prefix."""

    def set_limits(self, limits: pipe.SetLimits) -> None:
        """A reading takes less than a millisecond of one core, whatever the limits."""

    def add(self, engine_request: pipe.EngineRequest) -> pipe.Event | None:
        if engine_request.id in self._requests:
            raise ValueError(f"request id {engine_request.id} is in use")
        text = engine_request.messages[-1].content
        try:
            check_task(engine_request, self._tasks)
            if engine_request.plan != PLAN:
                fault = f"the model is trained for task {engine_request.task} as one of the kind unusual"
                raise Refusal(Code.UNKNOWN_TASK, fault)
            usual = self._tasks[engine_request.task].usual
            check_template(engine_request, usual.template)
            check_has_field(usual.names, values_of(text), text)
        except Refusal as refused:
            return pipe.Failed(id=engine_request.id, code=refused.error.code, message=refused.error.message)
        self._requests[engine_request.id] = engine_request
        return None

    def cancel(self, request_id: int) -> pipe.Event | None:
        return pipe.Cancelled(id=request_id) if self._requests.pop(request_id, None) else None

    def step(self) -> list[pipe.Event]:
        return [self._answer(self._requests.pop(number)) for number in [*self._requests]]

    def _answer(self, engine_request: pipe.EngineRequest) -> pipe.Event:
        try:
            return self._compare(engine_request)
        except Exception as error:
            # A fault of one request must not reach the others.
            log.exception("request %d failed", engine_request.id)
            return pipe.Failed(id=engine_request.id, code=Code.INTERNAL, message=str(error) or type(error).__name__)

    def _compare(self, engine_request: pipe.EngineRequest) -> pipe.Event:
        began = monotonic()
        usual, values = self._tasks[engine_request.task], values_of(engine_request.messages[-1].content)
        compared = usual.compare(values, max_rarity=MAX_FALSE_ALARMS)
        answer = {
            "score": round(compared.score, SCORE_DIGITS),
            "rarity": compared.rarity,
            "because": [asdict(field) for field in compared.because],
        }
        elapsed_s = monotonic() - began
        count_start(self._totals, 0)
        count_step(self._totals, requests=1, tokens=0, elapsed_s=elapsed_s, has_prefill=True)
        request = MeasuredRequest(engine_request=engine_request, prompt_tokens=0, batch=1, engine_time_s=elapsed_s)
        request.started_at, request.first_token_at = began, began + elapsed_s
        return request.finished(pipe.Finish.MODEL, text=compact_json(answer))

    def progress(self) -> pipe.Progress:
        return replace(self._totals, active=len(self._requests))
