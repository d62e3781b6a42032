"""A deterministic engine without a model, for tests of queue, overload and cancel on any machine.

The model path `echo:` chooses it. In `echo:step_ms=20,load_ms=500` each step takes 20 ms and the load 500 ms.
A token is a word. The first label that the last user message contains gets 0.9; if there is none, all are equal.
A schema gets a small instance, a number is always 1.5, and a text is the last user message, word by word.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from edge_agent.core import pipe
from edge_agent.core.codes import Code
from edge_agent.core.schemas import best_error, validator
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.engine import Engine, MeasuredRequest, count_start, count_step, too_long

_CONTEXT_TOKENS = 4096
_LIKELY = 0.9
_OPTIONS = ("step_ms", "load_ms")
_LOAD_PART_S = 0.1
_RANGES = {"0.0..1.0": 0.25, "1.0..2.0": 0.5, "2.0..3.0": 0.25}
# By the types of JSON Schema.
_SMALLEST = {"object": {}, "array": [], "string": "", "boolean": False, "null": None}


@dataclass(slots=True, kw_only=True, eq=False)
class _EchoRequest(MeasuredRequest):
    text: TextStream = field(default_factory=TextStream)
    words: list[str] = field(default_factory=list)  # The words of a text that are not written yet.
    written: int = 0


class EchoEngine(Engine):
    """Calls `on_progress` often while it loads. Raises ValueError for unknown options."""

    def __init__(self, load: pipe.Load, on_progress: Callable[[], object] = lambda: None) -> None:
        self._options = _parse_options(load.model_path)
        self._settings = load.settings
        self._context_tokens = load.settings.context_tokens or _CONTEXT_TOKENS
        self._max_active = load.settings.max_active
        self._requests: dict[int, _EchoRequest] = {}
        self._totals = pipe.Progress()
        self._pause = threading.Event()  # Never set, so that waiting for it is a pause.
        ready_at = monotonic() + self._options["load_ms"] / 1000
        while (left_s := ready_at - monotonic()) > 0:
            self._pause.wait(min(left_s, _LOAD_PART_S))
            on_progress()
        self.set_tasks(load.tasks)

    def ready(self, load_s: float) -> pipe.Ready:
        return pipe.Ready(
            pid=os.getpid(),
            context_tokens=self._context_tokens,
            max_active=self._settings.max_active,
            threads=self._settings.threads or 1,
            prefill_threads=self._settings.prefill_threads or 1,
            batch_tokens=self._settings.batch_tokens or 256,
            vocabulary=0,
            cpu_variant="echo",
            repacked_mib=None,
            load_s=load_s,
            measure_s=0.0,
        )

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def set_tasks(self, tasks: tuple[pipe.TaskPrefix, ...]) -> None:
        self._prefixes = {
            task.task: sum(_count(message.content) for message in task.messages) + _count(task.user_prefix)
            for task in tasks
        }

    def set_limits(self, limits: pipe.SetLimits) -> None:
        configured = self._settings.max_active
        self._max_active = configured if limits.max_active is None else min(configured, limits.max_active)

    def progress(self) -> pipe.Progress:
        return replace(self._totals, active=min(len(self._requests), self._settings.max_active))

    def add(self, engine_request: pipe.EngineRequest) -> pipe.Event | None:
        if engine_request.id in self._requests:
            raise ValueError(f"request id {engine_request.id} is in use")
        prompt = sum(_count(message.content) for message in engine_request.messages)
        if prompt + engine_request.max_tokens > self._context_tokens:
            return too_long(engine_request, prompt, engine_request.max_tokens, self._context_tokens)
        request = _EchoRequest(engine_request=engine_request, prompt_tokens=prompt)
        request.cached_tokens = min(self._prefixes.get(engine_request.task, 0), max(prompt - 1, 0))
        if isinstance(engine_request.plan, pipe.TextPlan):
            request.words = re.findall(r"\s*\S+", _last_user_text(engine_request))
            request.text = TextStream(stop=engine_request.plan.stop)
        self._requests[engine_request.id] = request
        return None

    def cancel(self, request_id: int) -> pipe.Event | None:
        return pipe.Cancelled(id=request_id) if self._requests.pop(request_id, None) else None

    def step(self) -> list[pipe.Event]:
        began = monotonic()
        active = list(self._requests.values())[: self._max_active]
        if not active:
            return []
        self._pause.wait(self._options["step_ms"] / 1000)
        engine_time_s = (monotonic() - began) / len(active)
        events, has_prefill = list[pipe.Event](), False
        for request in active:
            request.batch = max(request.batch, len(active))
            request.engine_time_s += engine_time_s
            is_first = request.started_at is None
            if is_first:
                request.started_at, request.first_token_at, has_prefill = began, monotonic(), True
                count_start(self._totals, request.cached_tokens)
                self._totals.prompt_tokens_total += request.prompt_tokens - request.cached_tokens
            if (answer := _answer(request)) is not None:
                del self._requests[request.engine_request.id]
                events.append(answer)
            elif not is_first:
                events += self._write_word(request)
        count = len(active)
        count_step(self._totals, requests=count, tokens=count, elapsed_s=monotonic() - began, has_prefill=has_prefill)
        return events

    def _write_word(self, request: _EchoRequest) -> list[pipe.Event]:
        text, engine_request = request.text, request.engine_request
        if request.words:
            text.write(request.words.pop(0).encode())
            request.written += 1
            self._totals.completion_tokens_total += 1
        is_over = text.is_stopped or not request.words
        has_ended = is_over or request.written >= engine_request.max_tokens
        if has_ended:
            text.end()
        events: list[pipe.Event] = []
        if engine_request.stream and (delta := text.take_delta()):
            events.append(pipe.Partial(id=engine_request.id, delta=delta))
        if has_ended:
            del self._requests[engine_request.id]
            finish = pipe.Finish.STOP if is_over else pipe.Finish.LENGTH
            events.append(request.finished(finish, text=text.text, completion_tokens=request.written))
        return events


def _answer(request: _EchoRequest) -> pipe.Event | None:
    """The whole answer; None for a text, which is written word by word."""
    engine_request = request.engine_request
    match engine_request.plan:
        case pipe.LabelsPlan(labels=labels):
            return request.finished(pipe.Finish.LABELS, scores=_scores(labels, _last_user_text(engine_request)))
        case pipe.NumberPlan():
            return request.finished(pipe.Finish.MODEL, scores=_RANGES)
        case pipe.SchemaPlan(schema=schema):
            instance = _smallest(schema)
            if (error := best_error(validator(schema), instance)) is not None:
                return pipe.Failed(id=engine_request.id, code=Code.NO_VALID_OUTPUT, message=error.message[:200])
            return request.finished(pipe.Finish.SCHEMA, text=json.dumps(instance, separators=(",", ":")))
        case pipe.TextPlan():
            return None


def _parse_options(path: str) -> dict[str, float]:
    options = dict.fromkeys(_OPTIONS, 0.0)
    for pair in filter(None, path.removeprefix(pipe.ECHO_MODEL).split(",")):
        name, _, value = pair.partition("=")
        if name not in options or not value.isdecimal():
            raise ValueError(f"model path {path!r}: {pair!r} is not one of {', '.join(_OPTIONS)} = a number")
        options[name] = float(value)
    return options


def _count(text: str) -> int:
    return len(text.split())


def _last_user_text(engine_request: pipe.EngineRequest) -> str:
    return next((message.content for message in reversed(engine_request.messages) if message.role == "user"), "")


def _scores(labels: Sequence[str], text: str) -> dict[str, float]:
    likely = next((label for label in labels if label in text), None)
    if likely is None or len(labels) == 1:
        return dict.fromkeys(labels, 1 / len(labels))
    return dict.fromkeys(labels, (1 - _LIKELY) / (len(labels) - 1)) | {likely: _LIKELY}


def _smallest(schema: Mapping[str, Any]) -> Any:
    """A small instance, valid for simple schemas; the validator finds out."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {key: _smallest(properties[key]) for key in schema.get("required", ()) if key in properties}
        case "string":
            return "x" * int(schema.get("minLength", 0))
        case "integer" | "number":
            return schema.get("minimum", 0)
        case kind:
            return _SMALLEST.get(str(kind))
