"""The `[tasks.NAME]` table that tasks of all kinds share, and what the product asks of a kind.

Each kind is a subclass in a module of its own, and registry.py lists them.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator

from edge_agent.core import topics
from edge_agent.core.envelope import MAX_DEADLINE_MS, Options, Temperature, Tokens, TopP
from edge_agent.core.pipe import Finished, Plan
from edge_agent.core.strict_json import is_near
from edge_agent.core.table import RatePerMinute, Table, TopicFilter, checked
from edge_agent.core.wording import shown

# Characters: more than the longest context.
MAX_SYSTEM = 1_000_000
# Characters: Jinja compiles a template of this size in half a second.
MAX_TEMPLATE = 65_536
MAX_EXAMPLES = 200
DEFAULT_TEMPLATE = "{{ input }}"


def template_sha256(template: str) -> str | None:
    """The hash of a template, in hex; None for the default one."""
    return None if template == DEFAULT_TEMPLATE else hashlib.sha256(template.encode()).hexdigest()


def _machine_as_wildcard(publish: str) -> str:
    """With `signals`, readings come on topics whose only wildcard matches the machine."""
    return publish.replace("{machine}", "{1}")


_TableName = Annotated[str, StringConstraints(pattern=topics.NAME_PATTERN)]


def _check_tables(names: object) -> object:
    tables = names if isinstance(names, list | tuple) else [names]
    is_valid = all(isinstance(name, str) and re.match(topics.NAME_PATTERN, name) for name in tables)
    if names is None or (is_valid and 0 < len(tables) == len(set(tables))):
        return tuple(tables) if isinstance(names, list) else names
    raise ValueError("should be the name of a table in `[signals]`, or a list of different ones")


class Example(Table):
    """An input with its right answer. Examples cost little time, as part of the prompt that is computed once."""

    input: str | dict[str, Any] | list[Any]
    """The input as in a request: text, an object or an array."""
    answer: str | int | float | dict[str, Any]
    """The right answer: a label, an object that validates against the schema, a text, or a number."""


class TaskBase(Table):
    enabled: bool = True
    """`false`: the task does not exist, and its requests are answered `invalid`/`unknown_task`."""
    system: Annotated[str, Field(max_length=MAX_SYSTEM)] | None = None
    """The system message: what the model should know and do. Default: none."""
    template: Annotated[str, Field(max_length=MAX_TEMPLATE)] = DEFAULT_TEMPLATE
    """The user message, a Jinja template over `input` and `topic`. A value missing from a reading is `bad_field`,
    unless the template has a `default(…)` for it. Each rendering is limited to 0.5 s of CPU time and 64 MB."""
    examples: Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES, strict=False)] = ()
    """Inputs with their right answers, which the model sees before each request. `edge-agent tune` chooses them."""
    examples_as: Literal["turns", "system"] = "turns"
    """Where the examples go: earlier turns of the chat, or below the system message."""
    model: Literal["default"] = "default"
    """The name of a table in `[models]`."""
    max_tokens: Tokens = 256
    """The most tokens that an answer may have; a request may ask for fewer or more."""
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    """How long after its arrival an answer is of use. A request may set its own. Default:
    `queue.default_deadline_ms`."""
    time: Annotated[tuple[str | int, ...], Field(max_length=16, strict=False)] = ()
    """Where a reading has the time of its measurement: keys of objects and indexes of elements, such as `["ts"]`. The
    time is RFC 3339, or seconds or milliseconds since 1970. The deadline counts from then, if the board's clock is set.
    Default: it counts from the arrival."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """0 is the most urgent, 9 the least. A request may set its own."""
    rate_per_minute: RatePerMinute | None = None
    """How many requests per minute the task accepts. Default: no limit."""
    max_payload_bytes: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """The largest payload of this task, never above the default. Default: `queue.max_payload_bytes`."""
    subscribe: tuple[TopicFilter, ...] = Field(default=(), strict=False)
    """Topic filters on which sensors already publish; each message is a reading, never an envelope. The filters of two
    tasks must be the same or must not overlap."""
    signals: Annotated[_TableName | tuple[_TableName, ...] | None, BeforeValidator(_check_tables)] = None
    """The table in `[signals]` whose readings the task answers, instead of `subscribe`; or a list of tables with the
    same values, of machines of one kind that publish them in different ways: give each kind of machine a task of its
    own. A newer reading of a machine replaces one that waits. Default: none."""
    publish: str | None = None
    """Where answers to readings go; `{1}` is what the first wildcard of `subscribe` matched, `{machine}` the machine
    of `signals`. Default: `<root>/<site>/<id>/infer/<task>/response`."""
    keep: Literal["all", "latest"] = Field(default="all", validate_default=True)
    """`latest`: a newer reading on the same topic, or a newer request with the same reply topic, replaces one that
    waits, which ends as `cancelled`/`superseded`. With `signals` it is always so: a newer reading replaces one of the
    same machine, and a newer request one with the same reply topic, even if their ids differ."""
    reply: Literal["full", "output"] = "full"
    """`output`: a bare payload or a reading gets the output alone, as text or JSON. A reply without an output goes in
    full to `<root>/<site>/<id>/infer/<task>/error`, and one that asks for feedback also to `…/audit`. An envelope
    always gets the full reply."""
    no_output: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """With `reply = "output"`: the text that a bare payload or a reading gets where there is no output, such as
    `unknown`. It is retained like an answer. A reading that a newer one replaces gets nothing. Default: nothing."""
    publish_on: Literal["all", "change"] = "all"
    """`change`: an answer to a reading is published only if it differs from the last one published on its topic, or if
    it asks for feedback."""
    after: Annotated[int, Field(ge=1, le=1000)] = 1
    """A debounce for `publish_on = "change"`: how many times in a row a changed answer must come before it is
    published."""
    publish_every_s: Annotated[float, Field(gt=0, le=31_536_000, strict=False)] | None = None
    """With `publish_on = "change"`: an unchanged answer is published again after this time. Default: never."""
    retain: bool = False
    """`true`: the broker keeps the last published answer to a reading, for those who subscribe later."""
    echo_input: Literal["off", "audits", "all"] = "off"
    """Which full replies contain the `input`, for readers of replies that have not seen the requests. `audits`: only
    those that ask for feedback."""

    @field_validator("publish")
    @classmethod
    def _check_publish(cls, publish: str | None, info: ValidationInfo) -> str | None:
        if publish is None or not info.data.keys() >= {"subscribe", "signals"}:
            return publish
        if info.data["signals"] is not None:
            return checked(topics.machine_pattern_fault(_machine_as_wildcard(publish), 1), publish)
        if not info.data["subscribe"]:
            raise ValueError("requires `subscribe` or `signals`: it says where answers to their readings go")
        wildcards = min(len(re.findall(r"[+#]", topic_filter)) for topic_filter in info.data["subscribe"])
        return checked(topics.publish_pattern_fault(publish, wildcards), publish)

    @field_validator("keep")
    @classmethod
    def _keep_latest_signals(cls, keep: Literal["all", "latest"], info: ValidationInfo) -> Literal["all", "latest"]:
        return keep if info.data.get("signals") is None else "latest"

    @field_validator("signals")
    @classmethod
    def _check_signals(cls, signals: Any, info: ValidationInfo) -> Any:
        if signals is not None and info.data.get("subscribe"):
            raise ValueError("cannot be combined with `subscribe`")
        return signals

    @field_validator("no_output")
    @classmethod
    def _check_no_output(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and info.data.get("reply") == "full":
            raise ValueError('requires `reply = "output"`: a full reply says itself that it has no output')
        return text

    @field_validator("publish_on", "retain")
    @classmethod
    def _check_has_readings(cls, value: Any, info: ValidationInfo) -> Any:
        if value in ("change", True) and not (info.data.get("subscribe", True) or info.data.get("signals", True)):
            raise ValueError("requires `subscribe` or `signals`: it is for answers to readings")
        return value

    @field_validator("after", "publish_every_s")
    @classmethod
    def _check_publish_on(cls, value: Any, info: ValidationInfo) -> Any:
        is_set = value != cls.model_fields[str(info.field_name)].default
        if is_set and info.data.get("publish_on") == "all":
            raise ValueError('requires `publish_on = "change"`')
        return value

    definition_fields: ClassVar[tuple[str, ...]] = (
        *("kind", "system", "template"),
        *("examples", "examples_as", "max_tokens"),
    )
    """The fields that decide what an answer is."""
    info_fields: ClassVar[tuple[str, ...]] = (
        *("kind", "deadline_ms", "priority", "max_tokens"),
        *("subscribe", "signals", "publish", "keep", "reply", "publish_on", "echo_input"),
    )
    """The fields that `info` shows."""
    has_own_model: ClassVar[bool] = False  # A small model of the bundle answers, and never the large one.
    writes: ClassVar[bool] = True  # The model writes the answer, of at most `max_tokens`.
    is_text: ClassVar[bool] = False  # An answer is free text, which may be streamed, and is neither right nor wrong.
    is_number: ClassVar[bool] = False  # An answer is a number.
    takes_feedback: ClassVar[bool] = False  # Answers are kept, so that people can say what was right.
    notable: ClassVar[str | None] = None  # A name for answers that people should look at; health counts them.
    canary_part: ClassVar[Literal["scores", "values", "beginning"]]  # The part of an answer that canaries record.
    file_keys: ClassVar[tuple[str, ...]] = ()  # Keys that hold a JSON object, or name a file with one.
    init_keys: ClassVar[Mapping[str, Any]] = {}
    """The keys that `edge-agent init` asks for, each with its default, if it has one."""
    init_system: ClassVar[str | None] = None
    """The system message that `init` suggests, with placeholders for the lists among `init_keys`."""

    @property
    def signal_tables(self) -> tuple[str, ...]:
        """The names of the tables in `signals`."""
        return (self.signals,) if isinstance(self.signals, str) else self.signals or ()

    @property
    def reading_filters(self) -> tuple[str, ...]:
        """The filters of the topics of its readings. Readings of `signals` have topics that only exist in the board."""
        return self.subscribe or tuple(topics.signals_topic(table, "#") for table in self.signal_tables)

    @property
    def reply_pattern(self) -> str:
        """`publish`, with `{machine}` as a numbered wildcard."""
        return _machine_as_wildcard(self.publish or "") if self.signals is not None else self.publish or ""

    @classmethod
    def value_faults(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # noqa: ARG003 - for kinds
        """Each key of a raw table with a fault that its type does not show, and the fault."""
        yield from ()

    @property
    def measures_prior(self) -> bool:
        """Whether its answers need to know what the model prefers where an input says nothing."""
        return False

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that a model scores to choose one of them; none where it does not choose."""
        return ()

    @abstractmethod
    def plan(self, options: Options) -> Plan:
        """What the engine does for a request."""

    def refuses(self, event: Finished) -> bool:
        """Whether there is no output, because the input is not as the model's training was."""
        return bool(event.marks)

    @abstractmethod
    def output_of(self, event: Finished) -> Any:
        """An answer as the caller gets it; None where the model is not sure enough."""

    def change_key(self, output: Any) -> Any:
        """The part of an output that decides whether an answer has changed, for `publish_on = "change"`."""
        return output

    def bare_output(self, output: Any) -> Any:
        """An output as `reply = "output"` sends it: text as it is, anything else as JSON."""
        return output

    def reply_fields(self, event: Finished) -> dict[str, Any]:  # noqa: ARG002 - for kinds
        """What a reply holds besides the output."""
        return {}

    def is_notable(self, output: Any) -> bool:  # noqa: ARG002 - for kinds
        """Whether an output is what `notable` names."""
        return False

    @property
    def max_notable(self) -> float:
        """The share of answers that may be notable although nothing is wrong."""
        return 0.0

    def confirms_notable(self, answer: str) -> bool:  # noqa: ARG002 - for kinds
        """Whether a notable answer was right, according to what somebody says the input was."""
        return False

    @abstractmethod
    def answer_fault(self, answer: object) -> str | None:
        """Why the task can never give this answer."""

    def row_fault(self, answer: object) -> str | None:
        """Why a labelled row cannot have this answer; there, an object may lack fields."""
        fault = self.answer_fault(answer)
        return fault and f"{fault} (got {shown(answer)})"

    def is_right(self, output: object, answer: object) -> bool:
        """Whether an output is the answer of a labelled row."""
        return is_near(output, answer)

    def canonical_answer(self, answer: Any) -> Any:
        """An answer without a fault, as a model learns to give it."""
        return answer

    def sample_answers(self) -> list[str]:
        """What answers look like. The converter weighs a model's numbers by texts that end in them."""
        return list(self.choices) or [""]


class SampledTask(TaskBase):
    temperature: Temperature | None = None
    """0 always takes the most probable token. A request may set its own. Default: 0, or 0.6 for a reasoning model."""
    top_p: TopP | None = None
    """Only the most probable tokens that together have this probability. A request may set its own. Default: 1, or 0.95
    for a reasoning model."""
