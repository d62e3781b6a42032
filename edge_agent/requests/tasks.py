"""What a task's requests ask the model, and what its answers look like."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from edge_agent.core import pipe
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.fields import FieldsTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.kinds.registry import BUILT_IN_TASK, TaskConfig
from edge_agent.core.kinds.task import DEFAULT_TEMPLATE, template_sha256
from edge_agent.core.model import Model
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import compact_json
from edge_agent.core.wording import first_fault, shown
from edge_agent.gguf.field_table import values_of
from edge_agent.requests.templates import TemplateInputError, constant_prefix, render

# Renders a template over an input. Raises TemplateInputError.
Render = Callable[[str, Any], str]
# Content-free inputs (Zhao 2021, "Calibrate before use", arXiv 2102.09690).
CONTENT_FREE_INPUTS = ("N/A", "-", "", "[MASK]", "…")
_TURNS = TypeAdapter(Annotated[tuple[pipe.ChatMessage, ...], Field(min_length=1, max_length=256)])
_BUILT_IN_TAKES = (
    f'the built-in task `{BUILT_IN_TASK}` takes text, or {{"messages": [{{"role": "user", "content": "…"}}, …]}}; '
    "readings are for configured tasks"
)


@dataclass(frozen=True)
class Task:
    """A configured task, or the built-in `generate`."""

    name: str
    config: TaskConfig

    @cached_property
    def definition(self) -> str:
        """A hash, in hex, of the task's name and of the fields that decide its answers."""
        fields = self.config.model_dump(
            mode="json", by_alias=True, include=set(self.config.definition_fields), exclude_defaults=True
        )
        return hashlib.sha256(json.dumps([self.name, fields]).encode()).hexdigest()

    @cached_property
    def template_sha256(self) -> str | None:
        """The template's hash in hex; None for the default one."""
        return template_sha256(self.config.template)

    @cached_property
    def score_map(self) -> ScoreMap | None:
        """The configured map of its scores, which holds only for the weights of `has_map_for`."""
        if not isinstance(self.config, ClassifyTask) or (table := self.config.score_map) is None:
            return None
        labels = self.config.labels
        scales, biases = (tuple(part[label] for label in labels) for part in (table.scale, table.bias))
        return ScoreMap(labels, scales, biases)

    def basis_for(self, weights_sha256: str) -> str:
        """The digest that `score_map.made_for` holds if the map was fitted for this definition and these weights."""
        return hashlib.sha256(f"{self.definition}\n{weights_sha256}".encode()).hexdigest()[:16]

    def has_map_for(self, weights_sha256: str) -> bool:
        """Whether its configured map was made for these weights and for the task's current definition."""
        table = self.config.score_map if isinstance(self.config, ClassifyTask) else None
        return table is not None and table.made_for == self.basis_for(weights_sha256)

    @cached_property
    def leading_messages(self) -> tuple[pipe.ChatMessage, ...]:
        """The turns before that of a request: the system message and the examples. Raises Refusal(bad_field)."""
        system, turns, listed = self.config.system, list[pipe.ChatMessage](), list[str]()
        for example in self.config.examples:
            asked = self._user_text(example.input, render)
            answer = example.answer if isinstance(example.answer, str) else compact_json(example.answer)
            if self.config.examples_as == "turns":
                turns.append(pipe.ChatMessage(role="user", content=asked))
                turns.append(pipe.ChatMessage(role="assistant", content=answer))
            else:
                listed.append(f"Input: {asked}\nAnswer: {answer}")
        if listed:
            system = "\n\n".join([*([] if system is None else [system]), "Examples:", *listed])
        return (*(() if system is None else (pipe.ChatMessage(role="system", content=system),)), *turns)

    def prefix(self) -> pipe.TaskPrefix:
        """What all requests of this task have in common."""
        return pipe.TaskPrefix(
            task=self.name,
            definition=self.definition,
            messages=self.leading_messages,
            user_prefix=unicodedata.normalize("NFC", constant_prefix(self.config.template)),
            has_schema=isinstance(self.config.plan(Options()), pipe.SchemaPlan),
            content_free=self._content_free_runs() if self.config.measures_prior else (),
        )

    def with_prior_correction(self) -> Task:
        """The same task, of the same definition; a worker measures its prior in any case."""
        return Task(self.name, self.config.model_copy(update={"prior": "corrected"}))

    def _content_free_runs(self) -> tuple[pipe.EngineRequest, ...]:
        """Requests with content-free inputs; none if the template needs more than a string."""
        try:
            return tuple(
                self.build_engine_request(0, Envelope(input=text), partial(render, topic=text))
                for text in CONTENT_FREE_INPUTS
            )
        except Refusal:
            return ()

    def needs_renderer(self, value: Any) -> bool:
        """Whether the input decides how long its template takes, so that the agent's own thread must not render it."""
        is_chat = self.name == BUILT_IN_TASK and not isinstance(value, str)
        return self.config.template != DEFAULT_TEMPLATE and not is_chat

    def check_required(self, value: Any) -> None:
        """Raises Refusal(bad_field) for an input that lacks a field that the task requires, or has nothing in it."""
        if not isinstance(self.config, FieldsTask) or not self.config.required:
            return
        found = values_of(value if isinstance(value, str) else compact_json(value))
        if missing := [name for name in self.config.required if name not in found]:
            rule = f"should have {', '.join(missing)}, because of `tasks.{self.name}.required`"
            raise Refusal(Code.BAD_FIELD, f"input: {rule} (got {shown(value)})")

    def messages(self, value: Any, render: Render = render) -> tuple[pipe.ChatMessage, ...]:
        """The chat for an input. Raises Refusal(bad_field)."""
        if self.name == BUILT_IN_TASK and not isinstance(value, str):
            if not isinstance(value, dict) or "messages" not in value:
                raise Refusal(Code.BAD_FIELD, f"input: {_BUILT_IN_TAKES} (got {shown(value)})")
            try:
                turns = _TURNS.validate_python(value["messages"])
            except ValidationError as error:
                raise Refusal(Code.BAD_FIELD, first_fault(error, "input.messages")) from error
            return turns if turns[0].role == "system" else self.leading_messages + turns
        return (*self.leading_messages, pipe.ChatMessage(role="user", content=self._user_text(value, render)))

    def _user_text(self, value: Any, render: Render) -> str:
        """The template over an input. Raises Refusal(bad_field)."""
        if self.config.template == DEFAULT_TEMPLATE:
            return value if isinstance(value, str) else compact_json(value)
        try:
            return render(self.config.template, value)
        except TemplateInputError as error:
            raise Refusal(Code.BAD_FIELD, f"{error} (got {shown(value)})") from error

    def options(self, given: Options) -> Options:
        """A request's options. Those that are None take the task's value, or stay None if the task sets none."""
        return given.model_copy(
            update={name: value for name, value in self._set_options if getattr(given, name) is None}
        )

    @cached_property
    def _set_options(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.config if name in Options.model_fields and value is not None]

    def build_engine_request(self, number: int, envelope: Envelope, render: Render = render) -> pipe.EngineRequest:
        """The request for the worker, which is not sent here. Raises Refusal(bad_field)."""
        options = self.options(envelope.options)
        return pipe.EngineRequest(
            id=number,
            task=self.name,
            messages=self.messages(envelope.input, render),
            plan=self.config.plan(options),
            sampling=pipe.Sampling(
                temperature=options.temperature,
                top_p=options.top_p,
                top_k=options.top_k,
                min_p=options.min_p,
                seed=options.seed,
            ),
            max_tokens=(options.max_tokens or self.config.max_tokens) if self.config.writes else 0,
            max_reasoning_tokens=options.max_reasoning_tokens,
            includes_reasoning=options.reasoning == "include",
            stream=envelope.stream and self.config.is_text,
            template_sha256=self.template_sha256,
        )

    def output_of(self, event: pipe.Finished) -> Any:
        """What an answer is to the caller; None where the model is not sure of it, or refuses the input."""
        return None if self.config.refuses(event) else self.config.output_of(event)

    def is_served_by(self, model: Model) -> bool:
        """Whether the bundle has a model for this task."""
        config = self.config
        return model.serves(
            self.name, has_own_model=config.has_own_model, labels=config.choices, template=config.template
        )

    def describe(self) -> dict[str, Any]:
        """What a caller needs to know about this task, for `info`."""
        return self.config.model_dump(mode="json", by_alias=True, include=set(self.config.info_fields))


def prefixes_of(tasks: Iterable[Task]) -> tuple[pipe.TaskPrefix, ...]:
    """What the requests of each of these tasks have in common, where the large model answers them."""
    return tuple(task.prefix() for task in tasks if not task.config.has_own_model)


def with_built_in(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """The enabled tasks by name; the built-in `generate` is there unless its table disables it."""
    built_in = {} if BUILT_IN_TASK in configs else {BUILT_IN_TASK: GenerateTask(kind="generate")}
    return {name: Task(name, config) for name, config in {**configs, **built_in}.items() if config.enabled}
