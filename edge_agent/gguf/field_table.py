"""How a model that `edge-convert train` made reads an input: each field becomes tokens, a number the token of its bin.

The table is stored in the model's file, where other models have their chat template.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.labelled import ROW_KEYS
from edge_agent.core.pipe import LabelsPlan, NumberPlan, OddField, Plan, SchemaPlan, TextPlan
from edge_agent.core.strict_json import MAX_NUMBER, NotJsonError, compact_json, number_of, parse_json
from edge_agent.core.wording import cut, shown
from edge_agent.gguf.usual_readings import UsualReadings

# The field of an input that is a text. No key of an object is empty here.
WHOLE_TEXT = ""
ANSWER = "<|answer|>"
_MAX_EDGES = 255
MAX_CODES = 16
MAX_HELD_OUT = 1_000_000
# The shares of the training rows between which a value is usual.
USUAL_SHARES = 0.01, 0.99
# A stranger's input has the fingerprint of one of 50,000 others once in 80,000 times.
FINGERPRINT_BYTES = 4
# Together they take 0.4 MB of the model's file.
MAX_FINGERPRINTS = 50_000
# Shorter tokens are pieces of unknown words, as a rule.
_PIECE_BYTES = 3


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that no text of a caller becomes."""

    text: str


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Number = Annotated[float, Field(allow_inf_nan=False)]
# A value that stands for a state of the sensor, such as -99 or "ERR".
ErrorCode = _Number | str


class InputField(_Checked):
    name: str
    edges: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=_MAX_EDGES)] | None
    """The edges of a number's bins, rising, from the least to the greatest ordinary number of the training; None for a
    text."""
    usual: tuple[_Number, _Number] | None = None
    """A number's ordinary values, from the 1st to the 99th percentile; None for a text, or in an older model."""
    accepted: tuple[_Number, _Number] | None = None
    """The range outside which a number is odd, which holds all ordinary ones and a margin; None as for `usual`."""
    codes: tuple[ErrorCode, ...] | None = None
    """Those of the table's codes that rows had in this field; the others are odd. None for all, or for a text."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if any(low >= high for low, high in pairwise(self.edges or ())):
            raise ValueError(f"edges of {shown(self.name)}: should rise")
        if any(ends is not None and ends[0] > ends[1] for ends in (self.usual, self.accepted)):
            raise ValueError(f"ranges of {shown(self.name)}: should rise")
        return self

    @property
    def missing(self) -> ControlToken:
        """The token of a missing value."""
        return self._control("missing")

    @property
    def bins(self) -> list[ControlToken]:
        """The tokens of a number: less than all of training, from each edge up to the next one, more than all."""
        return [] if self.edges is None else [self._control(str(at)) for at in range(len(self.edges) + 2)]

    @property
    def controls(self) -> list[ControlToken]:
        return [self.missing, *(self.bins or [self._control("text")])]

    def parts(self, value: Any, codes: Sequence[ErrorCode] = ()) -> list[ControlToken | str]:
        """The tokens and texts of a value of this field; None stands for a missing one. `codes` are the table's."""
        if self.edges is None:
            if value is None:
                return [self.missing]
            return [self._control("text"), value if isinstance(value, str) else compact_json(value)]
        if (code := self.code_of(value, codes)) is not None:
            return [code_control(codes.index(code))]
        number = number_of(value)
        if number is None:
            return [self.missing]
        is_above = number > self.edges[-1]
        return [self._control(str(len(self.edges) + 1 if is_above else bisect_right(self.edges, number)))]

    def code_of(self, value: Any, codes: Sequence[ErrorCode]) -> ErrorCode | None:
        """The code that a value of a number is; None for an ordinary number, too, although elsewhere it is a code."""
        number = number_of(value)
        if self.edges is None or (number is not None and self.edges[0] <= number <= self.edges[-1]):
            return None
        code = value if number is None and isinstance(value, str) else number
        return code if code in codes else None

    def oddity(self, value: Any, codes: Sequence[ErrorCode]) -> Literal["out-of-range", "not-a-number"] | None:
        """Why a value is as in no row of the training; None for a missing one, too."""
        if self.accepted is None or value is None:
            return None
        if self.code_of(value, codes if self.codes is None else self.codes) is not None:
            return None
        number, (low, high) = number_of(value), self.accepted
        if number is None:
            return "not-a-number"
        return None if low <= number <= high else "out-of-range"

    def rarity(self, value: Any, codes: Sequence[ErrorCode]) -> str | None:
        """What a number has instead of a usual value, see Finished; None for a usual one."""
        if self.usual is None or self.oddity(value, codes) is not None:
            return "odd"
        number = number_of(value)
        if self.code_of(value, codes) is not None or number is None:
            return "missing" if value is None else "code"
        return "low" if number < self.usual[0] else "high" if number > self.usual[1] else None

    def _control(self, state: str) -> ControlToken:
        return ControlToken(f"<|field {self.name} {state}|>")


def code_control(index: int) -> ControlToken:
    """The token of an error code, by its place in `codes`: the same in all fields."""
    return ControlToken(f"<|code {index}|>")


_Limit = _Number | None
_Answer = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]


class NumberBins(_Checked):
    """The bins of a number that is an answer, and how its distributions are corrected."""

    edges: Annotated[tuple[_Answer, ...], Field(min_length=3, max_length=_MAX_EDGES)]
    """Rising, from the least to the greatest answer of training, and beyond where there are few different ones."""
    levels: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=2)] = (0.0, 1.0)
    """Below these levels of the model's distributions, in equal steps, 0 % to 100 % of the held-out answers lay."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for name, numbers in (("edges", self.edges), ("levels", self.levels)):
            if any(low >= high for low, high in pairwise(numbers)):
                raise ValueError(f"{name} of a number: should rise")
        return self

    def bin_of(self, number: float) -> int:
        return min(max(bisect_right(self.edges, number) - 1, 0), len(self.edges) - 2)

    def corrected(self, chances: Sequence[float]) -> dict[str, float]:
        """The corrected chance of each bin by its range, from those that the model gives."""
        shares = [self._share_of(below) for below in accumulate(chances[:-1], initial=0.0)] + [1.0]
        return {
            f"{start!r}..{end!r}": after - before
            for (start, end), (before, after) in zip(pairwise(self.edges), pairwise(shares), strict=True)
        }

    def _share_of(self, level: float) -> float:
        """The share of answers that is expected below a level of the model's distributions."""
        steps = len(self.levels) - 1
        at = min(max(bisect_right(self.levels, level) - 1, 0), steps - 1)
        low, high = self.levels[at : at + 2]
        return (at + min(max((level - low) / (high - low), 0.0), 1.0)) / steps


class TaskFields(_Checked):
    """What the model was trained for, as a task of this kind."""

    kind: str
    labels: tuple[str, ...]  # The answers that it scores; none where it writes an answer.
    fields: Annotated[tuple[str, ...], Field(min_length=1)]  # Their names, in the order of the prompt.
    together: UsualReadings | None = None
    """How the numbers of its rows go together; None if it has no such numbers, or in an older bundle."""
    max_score: _Limit = None
    """An input is taken for one that is unlike training if the score of its numbers by `together` is higher."""
    most_strangeness: _Limit = None  # The same for an input whose texts are stranger than this.
    most_log_odds: _Limit = Field(default=None, exclude=True)
    """A key of older bundles, which have a token for inputs unlike training; it has no effect."""
    required: tuple[str, ...] = ()  # The fields that every row of the training had.
    min_numbers: int = 0  # The fewest fields of numbers that a row of the training had.
    number: NumberBins | None = None  # Of its answers, where they are numbers.
    template: str | None = None
    """The task's template in training, without which the fields mean something else; None in an older bundle."""
    held_out: tuple[tuple[_Number, int, int], ...] = ()
    """For each score of the best label of held-out rows, how many rows were answered right, and how many in all."""
    held_out_odd: tuple[int, int] | None = None
    """How many held-out rows were unlike the training's or had an odd field, and how many there were; None in an older
    bundle."""
    learnt: Annotated[str, Field(pattern=f"^([0-9a-f]{{{2 * FINGERPRINT_BYTES}}})*$")] | None = None
    """The fingerprints of all inputs that the model learnt from, in hex; None if they are too many, or not known."""

    @model_validator(mode="after")
    def _is_countable(self) -> Self:
        counts = [*(counts for _, *counts in self.held_out), *([self.held_out_odd] if self.held_out_odd else [])]
        if any(not 0 <= some <= count for some, count in counts):
            raise ValueError("held_out: should have no more of some rows than of all")
        if sum(count for _, count in counts) > MAX_HELD_OUT:
            raise ValueError(f"held_out: should be at most {MAX_HELD_OUT} rows")
        return self

    @property
    def is_scored(self) -> bool:
        """Whether the model scores the answers that it may give, instead of writing one."""
        return bool(self.labels) or self.number is not None

    def fits(self, plan: Plan) -> bool:
        """Whether the model is trained to answer by this plan."""
        match plan:
            case LabelsPlan(labels=labels):
                return set(labels) == set(self.labels)
            case SchemaPlan():
                return not self.is_scored
            case NumberPlan():
                return self.number is not None
            case TextPlan():
                return False


class FieldTable(_Checked):
    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    tasks: Annotated[dict[str, TaskFields], Field(min_length=1)]
    fields: tuple[InputField, ...]
    codes: Annotated[tuple[ErrorCode, ...], Field(max_length=MAX_CODES)] = ()
    """Error codes of the training rows: values far from the ordinary ones of their field, in several rows."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if len(set(self.controls)) < len(self.controls):
            raise ValueError("fields and tasks should have different names")
        for name, task in self.tasks.items():
            if unknown := set(task.fields) - set(self._by_name):
                raise ValueError(f"tasks.{name}.fields: {shown(sorted(unknown))} are not in fields")
        return self

    @cached_property
    def _by_name(self) -> dict[str, InputField]:
        return {input_field.name: input_field for input_field in self.fields}

    def with_limits(self, limits: Mapping[str, tuple[float | None, float | None]]) -> FieldTable:
        """A table with other limits, `max_score` and `most_strangeness` for each task."""
        changed = {
            name: self.tasks[name].model_copy(update={"max_score": score, "most_strangeness": strange})
            for name, (score, strange) in limits.items()
        }
        return self.model_copy(update={"tasks": self.tasks | changed})

    def with_together(self, together: Mapping[str, UsualReadings]) -> FieldTable:
        """A table with what says how the numbers of some tasks go together."""
        changed = {
            name: self.tasks[name].model_copy(update={"together": readings}) for name, readings in together.items()
        }
        return self.model_copy(update={"tasks": self.tasks | changed})

    def with_levels(self, levels: Mapping[str, tuple[float, ...]]) -> FieldTable:
        """A table with other levels of the numbers that are answers, by task."""
        changed = {
            name: task.model_copy(update={"number": task.number.model_copy(update={"levels": levels[name]})})
            for name, task in self.tasks.items()
            if task.number is not None and name in levels
        }
        return self.model_copy(update={"tasks": self.tasks | changed})

    @property
    def label_sets(self) -> dict[str, tuple[str, ...]]:
        """The labels of each task that has some."""
        return {name: task.labels for name, task in self.tasks.items() if task.labels}

    @property
    def templates(self) -> dict[str, str]:
        """The template of each task that has one."""
        return {name: task.template for name, task in self.tasks.items() if task.template is not None}

    @property
    def fingerprints(self) -> dict[str, bytes]:
        """The fingerprints of the inputs that each task was learnt from, one after the other, where they are known."""
        return {name: bytes.fromhex(task.learnt) for name, task in self.tasks.items() if task.learnt is not None}

    def with_held_out(
        self, counts: Mapping[str, tuple[tuple[float, int, int], ...]], odd: Mapping[str, tuple[int, int]]
    ) -> FieldTable:
        """A table with the counts of each task's held-out rows, `held_out` and `held_out_odd`."""
        changed = {
            name: self.tasks[name].model_copy(update={"held_out": counts[name], "held_out_odd": odd[name]})
            for name in counts
        }
        return self.model_copy(update={"tasks": self.tasks | changed})

    @property
    def controls(self) -> list[ControlToken]:
        """All control tokens that a prompt or an answer may hold, in a fixed order."""
        tasks = map(_task_control, self.tasks)
        fields = (control for input_field in self.fields for control in input_field.controls)
        answers = (control for name in self.tasks for control in self.answer_bins(name))
        return [ControlToken(ANSWER), *tasks, *map(code_control, range(len(self.codes))), *fields, *answers]

    def answer_bins(self, task: str) -> list[ControlToken]:
        """The tokens of a number that is the task's answer, one for each bin; none where it is no number."""
        number = self.tasks[task].number
        bins = 0 if number is None else len(number.edges) - 1
        return [ControlToken(f"<|number {task} {at}|>") for at in range(bins)]

    def answer_token(self, task: str, answer: Any) -> ControlToken | None:
        """The token of an answer; None for one that is a text."""
        number = self.tasks[task].number
        return None if number is None else self.answer_bins(task)[number.bin_of(answer)]

    def parts(self, task: str, values: Mapping[str, Any]) -> Iterator[ControlToken | str]:
        """The prompt of one of `tasks` for an input's values, from `values_of`."""
        yield _task_control(task)
        for name in self.tasks[task].fields:
            yield from self._by_name[name].parts(values.get(name), self.codes)
        yield ControlToken(ANSWER)

    def odd_fields(
        self, task: str, values: Mapping[str, Any], required: Sequence[str] | None = None
    ) -> tuple[OddField, ...]:
        """The fields of an input that are as in no row of the training. `required` replaces the task's."""
        task_fields = self.tasks[task]
        fields = [self._by_name[name] for name in task_fields.fields]
        odd = {each.name: why for each in fields if (why := each.oddity(values.get(each.name), self.codes))}
        numbers = [each.name for each in fields if each.edges is not None]
        missing = list(task_fields.required if required is None else required)
        if sum(name in values for name in numbers) < task_fields.min_numbers:
            missing += numbers
        return (
            *(self._odd_field(name, values[name], why) for name, why in odd.items()),
            *(self._odd_field(name, None, "missing") for name in dict.fromkeys(missing) if name not in values),
        )

    def ordinary_numbers(self, task: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an input that are numbers, and neither odd nor codes."""
        fields = (self._by_name[name] for name in self.tasks[task].fields)
        return {
            each.name: value
            for each in fields
            if each.edges is not None
            and number_of(value := values.get(each.name)) is not None
            and each.oddity(value, self.codes) is None
            and each.code_of(value, self.codes) is None
        }

    def rare_fields(self, task: str, values: Mapping[str, Any]) -> dict[str, str]:
        """The numbers of an input that have no usual value, and what they have instead."""
        fields = (self._by_name[name] for name in self.tasks[task].fields)
        states = {
            each.name: each.rarity(values.get(each.name), self.codes) for each in fields if each.usual is not None
        }
        return {name: state for name, state in states.items() if state is not None}

    def _odd_field(self, name: str, value: Any, why: Literal["out-of-range", "not-a-number", "missing"]) -> OddField:
        if value is not None and number_of(value) is None:
            value = cut(value if isinstance(value, str) else compact_json(value))
        input_field = self._by_name.get(name)
        return OddField(field=name, value=value, why=why, usual=input_field.usual if input_field else None)


def check_has_field(names: Collection[str], values: Mapping[str, Any], text: str) -> None:
    """Raises Refusal(bad_field) unless the values of `text` have one of the fields that a model reads."""
    if not values.keys() & set(names):
        wanted = ", ".join(name or "a text" for name in names)
        raise Refusal(Code.BAD_FIELD, f"input: should have one of {wanted}, which the model reads (got {shown(text)})")


def strangeness(lengths: Iterable[int]) -> float:
    """How much the worst run of short tokens in the texts stands out, in standard errors.

    `lengths` are those of the tokens in bytes. Words of the training rows are single tokens. Other words, languages and
    scripts fall into pieces of few bytes.
    """
    run = worst = total = 0.0
    for length in lengths:
        total += length
        run = max(run + _PIECE_BYTES - length, 0.0)
        worst = max(worst, run)
    return worst / math.sqrt(max(total, 1.0))


def _task_control(name: str) -> ControlToken:
    return ControlToken(f"<|task {name}|>")


def values_of(text: str) -> dict[str, Any]:
    """The fields of an input as a template prints it. They are an object's keys, those of objects in it after a dot.

    Those that say nothing, null or a blank text, are left out.
    """
    try:
        value = parse_json(text) if text.lstrip().startswith("{") else None
    except NotJsonError:
        value = None
    if not isinstance(value, dict):
        return {WHOLE_TEXT: text} if text.strip() else {}
    return dict(_flat(value, ""))


def fingerprint(text: str) -> bytes:
    """The fingerprint of an input as a template prints it, however its values are ordered and its numbers written."""
    values = {name: value for name, value in values_of(text).items() if name not in ROW_KEYS}
    numbers = {name: number_of(value) for name, value in values.items()}
    canonical = [[name, values[name] if numbers[name] is None else numbers[name]] for name in sorted(values)]
    return hashlib.sha256(compact_json(canonical).encode()).digest()[:FINGERPRINT_BYTES]


def fingerprints_of(texts: Iterable[str]) -> str | None:
    """The fingerprints of these inputs for TaskFields.learnt."""
    distinct = sorted({fingerprint(text) for text in texts})
    return None if len(distinct) > MAX_FINGERPRINTS else b"".join(distinct).hex()


def _flat(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{path}{key}.")
        elif item is None or (isinstance(item, str) and not item.strip()):
            continue
        elif (name := f"{path}{key}") != WHOLE_TEXT:
            yield name, item
