"""Every message on the pipe between the agent and its worker, and their one codec.

One message is one line of JSON. The agent writes commands on the worker's standard input, the worker writes events on
its standard output; its standard error is for llama.cpp's log. A worker can be driven by hand: nothing but JSON lines.
A command that cannot be decoded is the agent's bug and ends the worker; a request that cannot be served is an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

_TYPE_FIELD = "type"


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    LABELS = "labels"
    SCHEMA = "schema"


class RefusalCode(StrEnum):
    """The caller's mistakes that only the worker can see, because they are counted in tokens."""

    TOO_LONG = "too_long"
    BAD_FIELD = "bad_field"


class FailureCode(StrEnum):
    NO_VALID_OUTPUT = "no_valid_output"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Sizes of the engine; None = chosen by the worker for the machine it finds."""

    context_tokens: int | None = None
    max_active: int = 4
    threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrefix:
    """The text of a task that no request changes: decoded once, shared by all its requests.

    user_head: the text of the user message before the first thing taken from the input.
    has_schema: the task's answers are JSON, so that the engine prepares for it when it loads.
    """

    task: str
    system: str | None
    user_head: str
    has_schema: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn. All of its content is text to the tokenizer: it never becomes a control token."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsPlan:
    """Score these labels, generate nothing."""

    kind: Literal["labels"] = "labels"
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaPlan:
    """Write JSON that validates against this JSON Schema (2020-12, root object, local $ref only)."""

    kind: Literal["schema"] = "schema"
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlan:
    """Write text until end of turn, a stop string or `max_tokens`."""

    kind: Literal["text"] = "text"
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """temperature 0 = the most probable token; top_k 0, top_p 1 and min_p 0 = not applied; seed None = a random one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The file of a low-rank adapter, which changes every answer."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The first command, exactly once: open the model, decode the prefixes, then say Ready (or LoadFailed).

    Loading is said before, while it gets on.

    adapters: all of them are applied together. state_dir: a folder where what was measured and decoded is kept over
    restarts, for the model with this hash and these adapters; None = nothing is kept. is_restart: the worker before it
    died.
    """

    type: Literal["load"] = "load"
    model_path: str
    settings: EngineSettings
    tasks: tuple[TaskPrefix, ...] = ()
    model_sha256: str | None = None
    adapters: tuple[Adapter, ...] = ()
    state_dir: str | None = None
    is_restart: bool = False

    @property
    def weights_sha256(self) -> str | None:
        """What the model computes depends on: its hash, and those of its adapters; None where that is not known."""
        if self.model_sha256 is None:
            return None
        return "+".join((self.model_sha256, *(adapter.sha256 for adapter in self.adapters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTasks:
    """After a reload: these are the tasks now. Requests that run keep what they have."""

    type: Literal["set_tasks"] = "set_tasks"
    tasks: tuple[TaskPrefix, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimits:
    """From the next step on, until it is said anew: at most so much; None = as much as without it.

    threads: of steps that write; prefill_threads: of wider ones; batch_tokens: rows of a step; max_active: requests
    that start beside others. Those that run go on.
    """

    type: Literal["set_limits"] = "set_limits"
    threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    max_active: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Answer one request. Ends in exactly one Finished, Refused, Failed or Cancelled with the same `id`.

    max_reasoning_tokens: None = bounded by max_tokens alone.
    """

    type: Literal["run"] = "run"
    id: int
    task: str
    messages: tuple[ChatMessage, ...]
    plan: Annotated[LabelsPlan | SchemaPlan | TextPlan, Field(discriminator="kind")]
    sampling: Sampling = Sampling()
    max_tokens: int = 256
    max_reasoning_tokens: int | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop working on a request; answered by Cancelled, unless its end is under way already. Unknown ids are void."""

    type: Literal["cancel"] = "cancel"
    id: int


class LoadPhase(StrEnum):
    """What a load is at, in order."""

    PROGRAM = "program"
    WEIGHTS = "weights"
    MEASURE = "measure"
    PREFIXES = "prefixes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Sent once a second while a load gets on, and not while it does not: it may take minutes, but never in silence."""

    type: Literal["loading"] = "loading"
    phase: LoadPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model answers.

    repacked_mib: weights copied to the layout of fast kernels, MiB; 0.0 = none, None = the library did not say.
    cpu_variant: words; the name of the kernel variant that was loaded, where the library has several, and the CPU
    features compiled into what runs, as the library's own system info names them.
    prefill_tok_s: tokens per second of long prompts while nobody writes; decode_tok_s: of `max_active` answers written
    at once. Measured on this machine with this model at some start; None = not measured.
    load_s: how long it took to be ready; measure_s: of that, to measure steps, which a restart does not.
    """

    type: Literal["ready"] = "ready"
    pid: int
    context_tokens: int
    max_active: int
    threads: int
    prefill_threads: int
    batch_tokens: int
    vocabulary: int
    cpu_variant: str
    repacked_mib: float | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    load_s: float
    measure_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The model cannot be opened; the worker exits with 1 after this."""

    type: Literal["load_failed"] = "load_failed"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """Text that came since the last Partial of this request; only with `stream`. Never cuts a UTF-8 character."""

    type: Literal["partial"] = "partial"
    id: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An answer.

    text: the text, or for a SchemaPlan the JSON text, or for a LabelsPlan None.
    scores: label -> probability (sum 1), for a LabelsPlan.
    reasoning: the thought of a reasoning model, kept apart from `text`; None where there was none.
    started_at: when its first step began, in seconds of the monotonic clock, which all processes share.
    prefill_ms, decode_ms: from the start of this request's first step to its first token, and from there to its end.
    share_s: its share of the engine's time: of each step it was in, in proportion to its rows.
    batch: the largest number of requests that shared a step with this one, itself included.
    prompt_crc32: of the token ids of the prompt and, behind them, of the model's ends of a turn and of a text, 4 bytes
    each, little-endian; None = the prompt depends on the time, or the engine knows no tokens.
    """

    type: Literal["finished"] = "finished"
    id: int
    finish: Finish
    text: str | None
    scores: dict[str, float] | None
    reasoning: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    started_at: float
    prefill_ms: float
    decode_ms: float
    share_s: float
    batch: int
    prompt_crc32: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The caller's mistake; the message names the field, the value and what is allowed."""

    type: Literal["refused"] = "refused"
    id: int
    code: RefusalCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Our mistake, or an answer that would not validate."""

    type: Literal["failed"] = "failed"
    id: int
    code: FailureCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    type: Literal["cancelled"] = "cancelled"
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Sent about once a second and whenever the worker becomes idle: totals since its start, and proof that it lives.

    rows_total counts sequences over all steps, so rows_total / steps_total is the mean width.
    prefix_hits_total, prefix_misses_total: requests that shared tokens of a task's prefix, and those that shared none.
    prefill_s, decode_s: seconds spent in steps that held any prefill, and in those that held none.
    decoded_tokens_total: tokens that the model took in the latter; not those of answers that a plan forces or guesses.
    """

    type: Literal["progress"] = "progress"
    active: int = 0
    steps_total: int = 0
    rows_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    completion_tokens_total: int = 0
    prefix_hits_total: int = 0
    prefix_misses_total: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decoded_tokens_total: int = 0


Command = Load | SetTasks | SetLimits | Run | Cancel
Event = Loading | Ready | LoadFailed | Partial | Finished | Refused | Failed | Cancelled | Progress

# By default 16,384 strings are kept to be found again: what callers said would stay in both processes for weeks.
_CONFIG = ConfigDict(cache_strings="keys")
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator=_TYPE_FIELD)], config=_CONFIG)
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator=_TYPE_FIELD)], config=_CONFIG)


def encode_command(command: Command) -> bytes:
    """One line, newline included."""
    return _COMMANDS.dump_json(command) + b"\n"


def decode_command(line: bytes) -> Command:
    """Raises pydantic.ValidationError for anything that is not a command."""
    return _COMMANDS.validate_json(line)


def encode_event(event: Event) -> bytes:
    """One line, newline included."""
    return _EVENTS.dump_json(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Raises pydantic.ValidationError for anything that is not an event."""
    return _EVENTS.validate_json(line)
