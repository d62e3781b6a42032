"""A deterministic engine without a model, for tests of queue, overload and cancel on any machine.

The model path `echo:` chooses it. In `echo:step_ms=20,load_ms=500` each step takes 20 ms and the load 500 ms. `hang_ms`
is a load without progress, and `leak_kb` is memory that each step keeps: tests of the supervisor. A token is a word.
Labels: the first label that the last user message contains gets 0.9, else all are equal. Schema: the smallest instance.
Text: the last user message, word by word.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import jsonschema

from edge_agent.core.messages import Code
from edge_agent.core.protocol import (
    Cancelled,
    Event,
    Failed,
    Finish,
    Finished,
    LabelsPlan,
    Load,
    Partial,
    Progress,
    Ready,
    Run,
    SchemaPlan,
    SetLimits,
    TaskPrefix,
    TextPlan,
)
from edge_agent.core.schemas import resolve, validator
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.engine import Totals, too_long

log = logging.getLogger(__name__)

SCHEME = "echo:"
_CONTEXT_TOKENS = 4096
_LIKELY = 0.9
_OPTIONS = ("step_ms", "load_ms", "hang_ms", "leak_kb")
_LOAD_PART_S = 0.1


class EchoPathError(ValueError):
    """A model path that begins with `echo:` and has an unknown option."""


@dataclass(slots=True)
class _EchoRequest:
    run: Run
    prompt_tokens: int
    cached_tokens: int
    words: list[str]
    text: TextStream
    written: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    share_s: float = 0.0
    batch: int = 0


@dataclass(slots=True)
class EchoEngine:
    """An Engine. Raises EchoPathError for unknown options. advanced: called often while it loads."""

    load: Load
    advanced: Callable[[], object] = lambda: None
    _options: dict[str, float] = field(init=False)
    _most_active: int = field(init=False)
    _requests: dict[int, _EchoRequest] = field(default_factory=dict)
    _prefixes: dict[str, int] = field(default_factory=dict)
    _totals: Totals = field(default_factory=Totals)
    # Never set: waiting for it is a pause.
    _pause: threading.Event = field(default_factory=threading.Event)
    _leaked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._options = _parse_options(self.load.model_path)
        self._pause.wait(self._options["hang_ms"] / 1000)
        ready_at = monotonic() + self._options["load_ms"] / 1000
        while (left_s := ready_at - monotonic()) > 0:
            self._pause.wait(min(left_s, _LOAD_PART_S))
            self.advanced()
        self._most_active = self.load.settings.max_active
        self.set_tasks(self.load.tasks)

    def ready(self, load_s: float) -> Ready:
        settings = self.load.settings
        return Ready(
            pid=os.getpid(),
            context_tokens=self._context_tokens,
            max_active=settings.max_active,
            threads=settings.threads or 1,
            prefill_threads=settings.prefill_threads or 1,
            batch_tokens=settings.batch_tokens or 256,
            vocabulary=0,
            cpu_variant="echo",
            repacked_mib=None,
            prefill_tok_s=None,
            decode_tok_s=None,
            load_s=load_s,
            measure_s=0.0,
        )

    @property
    def _context_tokens(self) -> int:
        return self.load.settings.context_tokens or _CONTEXT_TOKENS

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        self._prefixes = {task.task: _count(task.system or "") + _count(task.user_head) for task in tasks}

    def add(self, run: Run) -> Event | None:
        if run.id in self._requests:
            raise ValueError(f"request id {run.id} is in use")
        prompt = sum(_count(message.content) for message in run.messages)
        context = self._context_tokens
        extra = run.max_tokens if not isinstance(run.plan, LabelsPlan) else 0
        if prompt + extra > context:
            return too_long(run, prompt, extra, context)
        stop = run.plan.stop if isinstance(run.plan, TextPlan) else ()
        words = re.findall(r"\s*\S+", _last_user_text(run)) if isinstance(run.plan, TextPlan) else []
        cached = min(self._prefixes.get(run.task, 0), max(prompt - 1, 0))
        self._requests[run.id] = _EchoRequest(run, prompt, cached, words, TextStream(stop=stop))
        return None

    def cancel(self, request_id: int) -> Event | None:
        return Cancelled(id=request_id) if self._requests.pop(request_id, None) else None

    def interrupt(self, request_id: int) -> None:
        """Does nothing: no step belongs to one request."""

    def step(self) -> list[Event]:
        began = monotonic()
        active = list(self._requests.values())[: self._most_active]
        if not active:
            return []
        self._pause.wait(self._options["step_ms"] / 1000)
        if leaked := int(1024 * self._options["leak_kb"]):
            # Pages of zeros would take no memory.
            self._leaked.append(b"!" * leaked)
        has_prefill = False
        share_s = (monotonic() - began) / len(active)
        events: list[Event] = []
        for request in active:
            request.batch = max(request.batch, len(active))
            request.share_s += share_s
            if request.started_at is None:
                request.started_at = began
                has_prefill = True
                self._totals.count_start(request.cached_tokens)
                self._totals.prompt_tokens += request.prompt_tokens - request.cached_tokens
                request.first_token_at = monotonic()
                if isinstance(request.run.plan, TextPlan):
                    continue
            events += self._try_to_advance(request)
        self._totals.count_step(
            rows=len(active), tokens=len(active), elapsed_s=monotonic() - began, has_prefill=has_prefill
        )
        return events

    def _try_to_advance(self, request: _EchoRequest) -> list[Event]:
        """A fault of one request must not reach the others."""
        try:
            return self._advance(request)
        except Exception as error:
            log.exception("request %d failed", request.run.id)
            return [self._fail(request, Code.INTERNAL, str(error) or type(error).__name__)]

    def _advance(self, request: _EchoRequest) -> list[Event]:
        plan = request.run.plan
        if isinstance(plan, LabelsPlan):
            return [self._finish(request, Finish.LABELS, scores=_scores(plan, _last_user_text(request.run)))]
        if isinstance(plan, SchemaPlan):
            return [self._answer_schema(request, plan)]
        return self._write_word(request)

    def _answer_schema(self, request: _EchoRequest, plan: SchemaPlan) -> Event:
        try:
            instance = _smallest(plan.schema, plan.schema)
            validator(plan.schema).validate(instance)
        except jsonschema.ValidationError as error:
            return self._fail(request, Code.NO_VALID_OUTPUT, error.message[:200])
        except RecursionError:
            return self._fail(request, Code.NO_VALID_OUTPUT, "the smallest instance of the schema has no end")
        return self._finish(request, Finish.SCHEMA, text=json.dumps(instance, separators=(",", ":")))

    def _fail(self, request: _EchoRequest, code: Code, message: str) -> Failed:
        del self._requests[request.run.id]
        return Failed(id=request.run.id, code=code, message=message)

    def _write_word(self, request: _EchoRequest) -> list[Event]:
        if request.words:
            request.text.write(request.words.pop(0).encode())
            request.written += 1
            self._totals.completion_tokens += 1
        finish = None
        if request.text.is_stopped or not request.words:
            finish = Finish.STOP
        elif request.written >= request.run.max_tokens:
            finish = Finish.LENGTH
        if finish is not None:
            request.text.end()
        events: list[Event] = []
        if request.run.stream and (delta := request.text.take_delta()):
            events.append(Partial(id=request.run.id, delta=delta))
        if finish is not None:
            events.append(self._finish(request, finish, text=request.text.text))
        return events

    def _finish(
        self, request: _EchoRequest, finish: Finish, *, text: str | None = None, scores: dict[str, float] | None = None
    ) -> Finished:
        del self._requests[request.run.id]
        started, first = request.started_at, request.first_token_at
        assert started is not None
        assert first is not None
        return Finished(
            id=request.run.id,
            finish=finish,
            text=text,
            scores=scores,
            reasoning=None,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            completion_tokens=request.written,
            prefill_ms=(first - started) * 1000,
            decode_ms=(monotonic() - first) * 1000,
            started_at=started,
            share_s=request.share_s,
            batch=request.batch,
        )

    @property
    def linger_s(self) -> float:
        return 0.0

    def set_limits(self, limits: SetLimits) -> None:
        most = self.load.settings.max_active
        self._most_active = most if limits.max_active is None else min(most, limits.max_active)

    def progress(self) -> Progress:
        return self._totals.progress(min(len(self._requests), self.load.settings.max_active))

    def close(self) -> None:
        self._requests.clear()


def _parse_options(path: str) -> dict[str, float]:
    options = dict.fromkeys(_OPTIONS, 0.0)
    for pair in filter(None, path.removeprefix(SCHEME).split(",")):
        name, _, value = pair.partition("=")
        if name not in options or not value.isdecimal():
            raise EchoPathError(f"model path {path!r}: {pair!r} is not one of {', '.join(_OPTIONS)} = a number")
        options[name] = float(value)
    return options


def _count(text: str) -> int:
    return len(text.split())


def _last_user_text(run: Run) -> str:
    return next((message.content for message in reversed(run.messages) if message.role == "user"), "")


def _scores(plan: LabelsPlan, text: str) -> dict[str, float]:
    likely = next((label for label in plan.labels if label in text), None)
    if likely is None or len(plan.labels) == 1:
        return dict.fromkeys(plan.labels, 1 / len(plan.labels))
    rest = (1 - _LIKELY) / (len(plan.labels) - 1)
    return {label: _LIKELY if label == likely else rest for label in plan.labels}


def _smallest(schema: Any, root: Mapping[str, Any]) -> Any:
    """A small instance, valid for simple schemas; the validator finds out."""
    if not isinstance(schema, Mapping):
        return None
    if "$ref" in schema:
        return _smallest(resolve(root, schema["$ref"], ("$ref",)), root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _smallest(schema[keyword][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "null")
    return _smallest_of_type(kind if isinstance(kind, str) else kind[0], schema, root)


def _smallest_of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        required = [key for key in properties if key in schema.get("required", ())]
        return {key: _smallest(properties[key], root) for key in required}
    if kind == "array":
        return [_smallest(schema.get("items", {}), root)] * int(schema.get("minItems", 0))
    if kind == "string":
        return "x" * int(schema.get("minLength", 0))
    if kind in {"integer", "number"}:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return min(low, schema.get("maximum", low))
    return False if kind == "boolean" else None
