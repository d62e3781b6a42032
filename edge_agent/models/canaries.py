"""canaries.json of a bundle: requests with recorded answers, and how answers are compared with them.

The kernels of another machine round differently. Scores may differ by a tolerance, and text is recorded only where
the choice was not close. A damaged model, another tokenizer or another chat template answers differently.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from edge_agent.core.bounded import FAULTY, OutOfBoundsError, bounded, run_in_child
from edge_agent.core.codes import Refusal
from edge_agent.core.config import Name
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.kinds.registry import KINDS, TaskConfig
from edge_agent.core.pipe import EngineRequest, Failed, Finished
from edge_agent.core.strict_json import compact_json, is_near, parse_json
from edge_agent.core.wording import first_fault, shown
from edge_agent.requests.task_tables import kind_of, table_value_faults
from edge_agent.requests.tasks import Task

FILE = "canaries.json"
SCHEMA: Literal[1] = 1
MAX_BYTES = 1_000_000
MAX_CANARIES = 100
# Agents before 0.3 do not know them, so they are written only where a task has examples.
_EXAMPLES = {"examples", "examples_as"}
_CPU_S = 2.0
_MEMORY_BYTES = 128_000_000
# All rendered requests together; the file itself has at most MAX_BYTES.
_MAX_RENDERED_BYTES = 8 * MAX_BYTES


class CanaryError(Exception):
    """The file cannot be used; the message names the field, the value and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


Share = Annotated[float, Field(ge=0, le=1)]


class Tolerances(_Part):
    score: Share
    """How much the probability of a label may differ."""
    number: Share
    """How much an extracted number may differ, as a share of it."""


class RecordedAnswer(_Part):
    """Exactly one of these three is set."""

    scores: Annotated[dict[str, Share], Field(min_length=2)] | None = None
    """The probability of each label."""
    values: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    """The top-level fields of an object that were not close choices."""
    beginning: Annotated[str, StringConstraints(min_length=1)] | None = None
    """The text up to its end or to the first close choice."""

    @property
    def parts(self) -> set[str]:
        """The names of the fields that are set."""
        return {name for name in type(self).model_fields if getattr(self, name) is not None}


class Prompt(_Part):
    """What tokenizer and chat template make of a request: the same on every machine."""

    tokens: Annotated[int, Field(ge=1)]
    crc32: Annotated[int, Field(ge=0, lt=2**32)]
    """As in `Finished`."""


class Canary(_Part):
    task: Name
    """The name of its task in the file."""
    input: str | dict[str, Any] | list[Any]
    """As in an envelope."""
    answer: RecordedAnswer
    prompt: Prompt | None = None
    """None if it depends on the time, or was not recorded."""


def _check_task_table(value: object) -> object:
    """Refuses the name of a file, which would be read from this machine."""
    if isinstance(value, dict) and (kind := kind_of(value)) is not None:
        for key in kind.file_keys:
            if not isinstance(value.get(key, {}), dict):
                raise ValueError(f"{key} should be an object")  # noqa: TRY004 - for pydantic
        for key, fault in table_value_faults(value):
            raise ValueError(f"{key}: {fault}")
    return value


class RecordedAnswers(_Part):
    """The part of the file that answers are compared with."""

    tolerances: Tolerances
    canaries: Annotated[tuple[Canary, ...], Field(min_length=1, max_length=MAX_CANARIES, strict=False)]

    def difference(self, index: int, event: Finished | Failed) -> str | None:
        """How an answer differs from the recorded one; None if it does not."""
        canary = self.canaries[index]
        found = _prompt_difference(canary.prompt, event) or _difference(canary.answer, event, self.tolerances)
        return None if found is None else f"canaries[{index}] ({canary.task}): {found}"


class CanaryFile(RecordedAnswers):
    schema_version: Literal[1] = Field(alias="schema")
    tasks: Annotated[dict[Name, Annotated[TaskConfig, BeforeValidator(_check_task_table)]], Field(min_length=1)]

    def build_engine_request(self, index: int, number: int) -> EngineRequest:
        """The request of a canary, with this number."""
        canary = self.canaries[index]
        return build_canary_request(Task(canary.task, self.tasks[canary.task]), canary.input, number)

    def encode(self) -> bytes:
        """Compact JSON in UTF-8, the same bytes for equal canaries. Keys keep their order, which a schema needs."""
        tasks = {
            name: task.model_dump(
                mode="json", by_alias=True, include={*task.definition_fields} - (set() if task.examples else _EXAMPLES)
            )
            for name, task in self.tasks.items()
        }
        value = {
            "canaries": [canary.model_dump(mode="json", exclude_unset=True) for canary in self.canaries],
            "schema": SCHEMA,
            "tasks": tasks,
            "tolerances": self.tolerances.model_dump(mode="json"),
        }
        return compact_json(value).encode()


def build_canary_request(task: Task, value: Any, number: int) -> EngineRequest:
    """The request for this input: greedy, without reasoning. Raises Refusal."""
    # Without a temperature, a reasoning model would be sampled at the one that its makers recommend.
    options = Options(temperature=0.0, max_reasoning_tokens=0)
    return task.build_engine_request(number, Envelope(input=value, options=options))


def decode(data: bytes) -> CanaryFile:
    """The content of a canaries.json. Raises CanaryError.

    Renders its templates without bounds; `read_canaries` does it within bounds.
    """
    if len(data) > MAX_BYTES:
        raise CanaryError(f"{FILE}: should be at most {MAX_BYTES} bytes (got {len(data)})")
    try:
        file = CanaryFile.model_validate(parse_json(data.decode()))
    except ValidationError as error:
        raise CanaryError(f"{FILE}: {first_fault(error, allowed_keys=_known_keys())}") from error
    except ValueError as error:
        raise CanaryError(f"{FILE}: is not JSON: {error}") from error
    for index in range(len(file.canaries)):
        if (fault := _canary_fault(file, index)) is not None:
            raise CanaryError(f"{FILE}: canaries[{index}].{fault}")
    return file


def _known_keys() -> list[str]:
    keys = (kind.model_fields[key].alias or key for kind in KINDS.values() for key in kind.definition_fields)
    return list(dict.fromkeys(keys))


def _canary_fault(file: CanaryFile, index: int) -> str | None:
    """How a canary does not fit its task."""
    canary = file.canaries[index]
    config = file.tasks.get(canary.task)
    if config is None:
        return f"task: should be one of {', '.join(file.tasks)} (got {shown(canary.task)})"
    part, labels = config.canary_part, set(canary.answer.scores or ())
    if canary.answer.parts != {part}:
        holds = ", ".join(sorted(canary.answer.parts)) or "nothing"
        return f"answer: should hold {part}, because its task is of the kind {config.kind} (got {holds})"
    if config.choices and labels != set(config.choices):
        return f"answer.scores: should have the labels of its task (got {shown(sorted(labels))})"
    try:
        file.build_engine_request(index, 0)
    except Refusal as error:
        return error.error.message
    return None


def _prompt_difference(prompt: Prompt | None, event: Finished | Failed) -> str | None:
    if prompt is None or not isinstance(event, Finished):
        return None
    if event.prompt_tokens != prompt.tokens:
        return f"the prompt has {event.prompt_tokens} tokens (recorded: {prompt.tokens})"
    if event.prompt_crc32 != prompt.crc32:
        return f"some of the prompt's {prompt.tokens} tokens, or of those that end an answer, differ from the recording"
    return None


def _difference(answer: RecordedAnswer, event: Finished | Failed, tolerances: Tolerances) -> str | None:
    if not isinstance(event, Finished):
        return f"no answer: {event.message}"
    if answer.scores is not None:
        return _score_difference(answer.scores, event.scores or {}, tolerances.score)
    if answer.values is not None:
        output = json.loads(event.text or "{}")
        for name, value in answer.values.items():
            if not is_near(output.get(name), value, tolerances.number):
                return f"{shown(name)} is {shown(output.get(name))} (recorded: {shown(value)})"
    elif not (event.text or "").startswith(answer.beginning or ""):
        return f"the text is {shown(event.text)} (recorded beginning: {shown(answer.beginning)})"
    return None


def _score_difference(recorded: Mapping[str, float], scores: Mapping[str, float], tolerance: float) -> str | None:
    if scores.keys() != recorded.keys():
        return f"the labels are {shown(sorted(scores))} (recorded: {shown(sorted(recorded))})"
    label = max(recorded, key=lambda label: abs(scores[label] - recorded[label]))
    # Not `>`, which is false for NaN.
    if abs(scores[label] - recorded[label]) <= tolerance:
        return None
    return f"{shown(label)} has {scores[label]:.3f} (recorded: {recorded[label]:.3f} ± {tolerance})"


@dataclass(frozen=True, slots=True)
class RenderedCanaries:
    """Canaries with their prompts rendered."""

    requests: tuple[EngineRequest, ...]
    answers: RecordedAnswers


def render_canaries(file: CanaryFile) -> RenderedCanaries:
    """Renders every template, without bounds."""
    return RenderedCanaries(
        requests=tuple(file.build_engine_request(index, index) for index in range(len(file.canaries))),
        answers=RecordedAnswers(tolerances=file.tolerances, canaries=file.canaries),
    )


_RENDERED = TypeAdapter(RenderedCanaries)


def read_canaries(path: Path) -> RenderedCanaries:
    """The content of a canaries.json. It is read in a process of its own, as the bundle's maker wrote its templates.

    Jinja's sandbox bounds neither loops nor what they build. Raises CanaryError, OSError.
    """
    with path.open("rb") as file:
        return _render_in_child(file.read(MAX_BYTES + 1))


def find_canaries(source: Path) -> RenderedCanaries | None:
    """The canaries of a bundle; None if it has none, or the source is a bare .gguf. Raises CanaryError, OSError."""
    return read_canaries(source / FILE) if (source / FILE).is_file() else None


# A switch reads the file of the new bundle, then the watch reads it before each round.
@lru_cache(maxsize=2)
def _render_in_child(data: bytes) -> RenderedCanaries:
    try:
        return _RENDERED.validate_json(run_in_child("edge_agent.models.canaries", data))
    except OutOfBoundsError as error:
        raise CanaryError(str(error) if FILE in str(error) else f"{FILE}: {error}") from error


def _main() -> int:
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            rendered = _RENDERED.dump_json(render_canaries(decode(sys.stdin.buffer.read())))
        if len(rendered) > _MAX_RENDERED_BYTES:
            raise CanaryError(f"{FILE}: should render to at most {_MAX_RENDERED_BYTES} bytes (got {len(rendered)})")
    except (CanaryError, OutOfBoundsError) as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        return FAULTY
    sys.stdout.buffer.write(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
