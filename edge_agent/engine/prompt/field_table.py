"""How a model that `edge-convert train` made reads an input: each field becomes tokens, a number one for its quantile.

The table stands in the model's file, as other models have their chat template there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.strict_json import NotJsonError, compact_json, parse_json
from edge_agent.core.wording import shown

# Of the GGUF file.
KEY = "edge-agent.fields"
# The field of an input that is a text. No key of an object is empty here.
WHOLE_TEXT = ""
ANSWER = "<|answer|>"
_MAX_LIMITS = 255


@dataclass(frozen=True, slots=True)
class Control:
    """A token that no text of a caller becomes."""

    text: str


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InputField(_Checked):
    """limits: of the bins of a number, rising, with the least and the greatest that training saw; None = a text."""

    name: str
    limits: Annotated[tuple[float, ...], Field(min_length=1, max_length=_MAX_LIMITS)] | None

    @property
    def controls(self) -> list[str]:
        """The texts of all its control tokens."""
        return [self._control(state) for state in self._states]

    @property
    def _states(self) -> tuple[str, ...]:
        bins = ("text",) if self.limits is None else tuple(map(str, range(len(self.limits) + 2)))
        return ("missing", *bins)

    def parts(self, value: Any) -> list[Control | str]:
        """Of a value of this field, None = it is missing."""
        if self.limits is None:
            if value is None:
                return [Control(self._control("missing"))]
            return [Control(self._control("text")), value if isinstance(value, str) else compact_json(value)]
        number = number_of(value)
        state = "missing" if number is None else str(self.bin_of(number))
        return [Control(self._control(state))]

    def bin_of(self, number: float) -> int:
        """From each limit up to the next one. 0 = less than all of training; the last one: more."""
        assert self.limits is not None
        return len(self.limits) + 1 if number > self.limits[-1] else bisect_right(self.limits, number)

    def _control(self, state: str) -> str:
        return f"<|{self.name} {state}|>"


class TaskFields(_Checked):
    """What the model was trained for. fields: the names of those that it reads, in this order. labels: None = none."""

    labels: tuple[str, ...] | None
    fields: tuple[str, ...]


class FieldTable(_Checked):
    """tasks: by name. fields: of all tasks."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    tasks: dict[str, TaskFields]
    fields: tuple[InputField, ...]

    @property
    def controls(self) -> list[str]:
        """The texts of all control tokens that a prompt may hold, in a fixed order."""
        return [ANSWER, *map(_task_control, self.tasks), *(text for one in self.fields for text in one.controls)]

    def parts(self, task: str, text: str) -> Iterator[Control | str]:
        """The prompt for an input as the task's template prints it. Raises Refusal."""
        if (known := self.tasks.get(task)) is None:
            trained = ", ".join(self.tasks)
            raise Refusal(Code.UNKNOWN_TASK, f"the model is trained for the tasks {trained} (got {shown(task)})")
        by_name = {one.name: one for one in self.fields}
        values = values_of(text)
        if not values.keys() & set(known.fields):
            wanted = ", ".join(name or "a text" for name in known.fields)
            message = f"input: should have one of {wanted}, which the model reads (got {shown(text)})"
            raise Refusal(Code.BAD_FIELD, message)
        yield Control(_task_control(task))
        for name in known.fields:
            yield from by_name[name].parts(values.get(name))
        yield Control(ANSWER)


def _task_control(name: str) -> str:
    return f"<|task {name}|>"


def values_of(text: str) -> dict[str, Any]:
    """The fields of an input as a template prints it: an object's keys, those of objects in it after a dot."""
    try:
        value = parse_json(text) if text.lstrip().startswith("{") else None
    except NotJsonError:
        value = None
    return dict(_flat(value, "")) if isinstance(value, dict) else {WHOLE_TEXT: text}


def _flat(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{path}{key}.")
        elif item is not None and (name := f"{path}{key}") != WHOLE_TEXT:
            yield name, item


def number_of(value: Any) -> float | None:
    """None = it is none. A text may spell one."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number - number == 0 else None
