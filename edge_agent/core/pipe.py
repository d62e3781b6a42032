"""The messages on the pipe between the agent and its worker, and their codec.

One message is one line of JSON: commands on the worker's standard input, events on its standard output. Its standard
error is llama.cpp's log. A command that cannot be decoded is a bug of the agent, and ends the worker. A request
that cannot be served is an event.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edge_agent.core.codes import Code

# The longest part of a load takes two minutes: a full batch of a 3B model on a throttled Pi 4.
LOAD_SILENCE_S = 300.0
# Instead of a file: the deterministic engine for trying everything else without a model (engine/echo.py).
ECHO_MODEL = "echo:"
# Requests that a student runs at once.
STUDENT_SLOTS = 8


def is_echo(model_path: Path | str) -> bool:
    return str(model_path).startswith(ECHO_MODEL)


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    LABELS = "labels"
    SCHEMA = "schema"
    MODEL = "model"


class EngineSettings(BaseModel):
    """How the model runs. Unset keys are chosen for board and model; threads and widths are measured once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    context_tokens: Annotated[int, Field(ge=256, le=131072)] | None = None
    """Tokens of all requests that run at once, prompts and answers together. Default: the model's context length, at
    most 4096."""
    max_active: Annotated[int, Field(ge=1, le=32)] = 4
    """Requests that run at once."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads for steps with fewer than 8 rows, of which each request that writes has one. Default: measured; 1 for a
    trained model."""
    prefill_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads for wider steps, which hold prompts. Default: measured; 1 for a trained model."""
    batch_tokens: Annotated[int, Field(ge=32, le=2048)] | None = None
    """Prompt tokens per step. Cancels and deadlines take effect between steps. Default: measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn. Its content never becomes a control token."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsPlan:
    """Score these labels, generate nothing."""

    kind: Literal["labels"] = "labels"
    labels: tuple[str, ...]
    required: tuple[str, ...] | None = None  # Fields that an input should have; None for those that every row had.


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaPlan:
    """Write JSON that validates against this JSON Schema (2020-12, root object, local $ref only)."""

    kind: Literal["schema"] = "schema"
    schema: dict[str, Any]
    required: tuple[str, ...] | None = None  # As for LabelsPlan.


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """Write text until end of turn, a stop string or `max_tokens`."""

    kind: Literal["text"] = "text"
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberPlan:
    """Score the ranges of numbers that a trained model has for this task, generate nothing."""

    kind: Literal["number"] = "number"
    required: tuple[str, ...] | None = None  # As for LabelsPlan.


# What the engine does for a request.
Plan = LabelsPlan | SchemaPlan | TextPlan | NumberPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float | None = None  # 0 takes the most probable. None is 0, or what a reasoning model's makers advise.
    top_p: float | None = None  # 1 does not limit the choice. None is 1, or what a reasoning model's makers advise.
    top_k: int = 0  # 0 does not limit the choice.
    min_p: float = 0.0
    seed: int | None = None  # None for a random one.


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A low-rank adapter's file; it changes every answer."""

    path: str
    sha256: str


def weights_sha256(model_sha256: str, adapters: Iterable[Adapter]) -> str:
    return "+".join((model_sha256, *(adapter.sha256 for adapter in adapters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A small model that is asked before the large one, or instead of it. Its file's suffix says how it is opened."""

    name: str  # Its file's, without the suffix.
    path: str
    sha256: str
    quantization: str
    tasks: dict[str, tuple[str, ...]]  # The labels of each task that it was made for; none where it chooses no label.
    templates: dict[str, str] = field(default_factory=dict)  # The template that it was trained with, by task, if known.


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Answers one request. It ends in exactly one Finished, Failed or Cancelled with the same `id`."""

    type: Literal["run"] = "run"
    id: int
    task: str
    messages: tuple[ChatMessage, ...]
    plan: Annotated[Plan, Field(discriminator="kind")]
    sampling: Sampling = Sampling()
    max_tokens: int = 256  # 0 if the answer is not written.
    max_reasoning_tokens: int | None = None  # None for about half of max_tokens.
    includes_reasoning: bool = False  # The reply has the reasoning.
    stream: bool = False
    student: str | None = None  # The name of the student that answers; None if the large model does.
    template_sha256: str | None = None  # Of the task's template, which a trained model knows; None for the default one.


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrefix:
    """What all requests of a task have in common. Their constant text is decoded once, and shared."""

    task: str
    definition: str = ""  # Identifies what decides the task's answers.
    messages: tuple[ChatMessage, ...] = ()  # The turns before the user's.
    user_prefix: str  # The user message up to the first part that comes from the input.
    has_schema: bool = False  # Its answers are JSON, for which the engine prepares at load.
    content_free: tuple[EngineRequest, ...] = ()  # They say nothing, so their scores are the prior of the labels.


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The first command, sent once: opens the model and decodes the prefixes.

    Answered by Priors and Ready, or by LoadFailed. While the load makes progress, Loading is sent.
    """

    type: Literal["load"] = "load"
    model_path: str
    settings: EngineSettings
    tasks: tuple[TaskPrefix, ...] = ()
    model_sha256: str | None = None
    adapters: tuple[Adapter, ...] = ()  # All are applied together.
    students: tuple[Student, ...] = ()  # They are loaded beside the model.
    state_dir: str | None = None  # Keeps measurements, priors and prefixes across restarts, by weights_sha256.

    @property
    def weights_sha256(self) -> str | None:
        return None if self.model_sha256 is None else weights_sha256(self.model_sha256, self.adapters)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTasks:
    """The tasks from now on, after a reload. Running requests are not affected. Answered by Priors."""

    type: Literal["set_tasks"] = "set_tasks"
    tasks: tuple[TaskPrefix, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimits:
    """Upper limits from the next step on, until the next SetLimits. None is no limit."""

    type: Literal["set_limits"] = "set_limits"
    threads: int | None = None  # For decode steps.
    prefill_threads: int | None = None  # For wider steps.
    batch_tokens: int | None = None  # Rows per step.
    max_active: int | None = None  # Requests at once; running ones are not affected.


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stops a request. It ends in Cancelled, unless another end is under way. Unknown ids are ignored."""

    type: Literal["cancel"] = "cancel"
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Sent about once a second while a load completes parts, and after each prior that is measured.

    A load without one for LOAD_SILENCE_S has failed.
    """

    type: Literal["loading"] = "loading"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """Which labels the model prefers where an input says nothing, sent before the first answer of these tasks."""

    type: Literal["priors"] = "priors"
    scores: dict[str, dict[str, float]]  # Each label's, by task definition; none where a content-free request fails.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model answers."""

    type: Literal["ready"] = "ready"
    pid: int
    context_tokens: int
    max_active: int
    threads: int
    prefill_threads: int
    batch_tokens: int
    vocabulary: int
    cpu_variant: str  # The kernel variant and its CPU features, in the library's words.
    repacked_mib: float | None  # The weights copied to the layout of fast kernels, if that is known.
    load_s: float  # The time until ready.
    measure_s: float  # The part of it for measurements, which a restart skips.


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The model cannot be opened; the worker then exits with code 1."""

    type: Literal["load_failed"] = "load_failed"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """Text since the last Partial of this request, in whole characters; only with `stream`."""

    type: Literal["partial"] = "partial"
    id: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OddField:
    """A field of an input that is as in no row of the training, by itself or beside the other fields."""

    field: str
    value: Any  # As it came, or a text that shows it; None for a missing one.
    why: Literal["out-of-range", "not-a-number", "missing", "together"]
    usual: tuple[float, float] | None
    """From the 1st to the 99th percentile of the training rows. If the field is odd only together with others, it is
    the range that those suggest, or None where the value is within it. None for a text."""

    @property
    def mark(self) -> str:
        """What `degraded` says of it."""
        return {"missing": "missing-fields", "together": "unlike-training"}.get(self.why, "out-of-range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An answer."""

    type: Literal["finished"] = "finished"
    id: int
    finish: Finish
    text: str | None = None  # The text, or that of the JSON; None for labels and numbers.
    scores: dict[str, float] | None = None  # The probability of each label or range of numbers. They sum to 1.
    unlike: float | None = None  # Above 0, the input is taken to be out of distribution. None if that is not known.
    odd_fields: tuple[OddField, ...] = ()  # Only of a model that `edge-convert train` made.
    rare_fields: dict[str, str] | None = None
    """Fields that have no usual value, by name: `low`, `high`, `odd`, `code` or `missing`. None if the model has no
    usual values."""
    reasoning: str | None = None  # What a reasoning model wrote before its answer, apart from `text`.
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int = 0
    started_at: float  # When its first step began, in seconds of the monotonic clock that all processes share.
    prefill_ms: float  # From there to its first token.
    decode_ms: float  # From its first token to its end.
    engine_time_s: float  # Its share of the engine's time, by its rows in each step.
    batch: int  # The most requests that shared a step with it, itself included.
    prompt_crc32: int | None = None
    """The CRC of the ids of the prompt's tokens, of end-of-turn and of end-of-text, as little-endian 32-bit numbers.
    None if the prompt depends on the time, or the engine has no tokens."""

    @property
    def is_unlike(self) -> bool:
        """Whether the input is taken for one that is unlike training, whose label would mean nothing."""
        return self.unlike is not None and self.unlike > 0

    @property
    def marks(self) -> list[str]:
        """What `degraded` says of the input."""
        of_input = ["unlike-training"] if self.is_unlike else []
        return [*dict.fromkeys([*of_input, *(odd.mark for odd in self.odd_fields)])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """No answer; `code` says why."""

    type: Literal["failed"] = "failed"
    id: int
    code: Code
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    type: Literal["cancelled"] = "cancelled"
    id: int


@dataclass(slots=True, kw_only=True)
class Progress:
    """A heartbeat with totals since the start: sent about once a second, and 0.1 s after a last step at the latest."""

    type: Literal["progress"] = "progress"
    active: int = 0
    steps_total: int = 0
    rows_total: int = 0  # The requests of each step, summed over all steps: steps_total times the mean batch.
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    completion_tokens_total: int = 0
    prefill_s: float = 0.0  # Time of steps with any prefill.
    decode_s: float = 0.0  # Time of all other steps.
    decoded_tokens_total: int = 0  # Tokens decoded in the other steps, without forced or guessed ones.
    students_s: float = 0.0  # Time of all students' steps, which the other totals leave out; up to a second late.


Command = Load | SetTasks | SetLimits | EngineRequest | Cancel
# The last event of a request.
WorkerAnswer = Finished | Failed | Cancelled
Event = Loading | Priors | Ready | LoadFailed | Partial | Finished | Failed | Cancelled | Progress

# By default pydantic caches 16,384 strings, and callers' texts would stay in memory for weeks.
_CONFIG = ConfigDict(cache_strings="keys")
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")], config=_CONFIG)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")], config=_CONFIG)


def encode_command(command: Command) -> bytes:
    """One line, newline included."""
    return _COMMANDS.dump_json(command) + b"\n"


def decode_command(line: bytes) -> Command:
    """Raises pydantic.ValidationError."""
    return _COMMANDS.validate_json(line)


def encode_event(event: Event) -> bytes:
    """One line, newline included."""
    return _EVENTS.dump_json(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Raises pydantic.ValidationError."""
    return _EVENTS.validate_json(line)
