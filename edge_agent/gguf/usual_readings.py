"""What usual readings look like, for tasks of the kind `unusual`: the content of a bundle's student-NAME.json.

A field table has the same of the rows that a trained task has learnt from. `edge-convert train` writes it, as numbers
and names only. engine/usual.py compares readings with it.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_agent.core.kinds.task import DEFAULT_TEMPLATE
from edge_agent.core.strict_json import parse_json

MAX_BYTES = 4_000_000
MAX_FIELDS = 400
MAX_COMPONENTS = 32
MAX_SCORES = 20_000
MAX_CODES = 100
# The share of gaps, texts and values that no row of the training has, so that a reading with one is always unusual.
UNSEEN = 1e-12
# Sums of these are finite.
_Number = Annotated[float, Field(ge=-1e200, le=1e200)]
_Positive = Annotated[float, Field(gt=0, le=1e200)]
_Place = Annotated[float, Field(ge=-1e6, le=1e6)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Name = Annotated[str, Field(max_length=128)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Field(_Checked):
    name: _Name
    missing: _Share  # How probable a missing value is.
    expected: _Number  # The mean surprisal of its value, given all others.


class NumberField(_Field):
    """A field whose values are numbers: one dimension of the mixture, in the order of `numbers`."""

    center: _Number  # The median. The mixture is over z = (value - center) / scale.
    scale: _Positive
    low: _Number  # The least ordinary number of the training.
    high: _Number  # The greatest one.
    odd: _Share  # How probable a value is that is neither a number nor a code.
    codes: Annotated[dict[str, _Share], Field(max_length=MAX_CODES)] = {}
    """How probable each error code is, such as -99 or "Bad Input", as `value_text` spells it."""


class ValueField(_Field):
    """A categorical field, such as a mode or a switch."""

    values: dict[str, _Share]  # How probable each value is, as `value_text` spells it.
    other: _Share  # How probable all other values are, together.


class Component(_Checked):
    """A multivariate normal distribution over the numbers."""

    weight: _Share
    mean: tuple[_Place, ...]
    covariance: tuple[tuple[_Place, ...], ...]  # The lower triangle, row by row.


class Tail(_Checked):
    """The generalized Pareto distribution of scores above a threshold, fitted to those of the held-out rows."""

    threshold: _Number
    share: _Share  # The share of the held-out rows above the threshold.
    scale: _Positive
    shape: Annotated[float, Field(ge=0, le=1)]


class UsualReadings(_Checked):
    """The usual readings of one task. The score of a reading is its negative log density: the higher, the rarer."""

    template: str = DEFAULT_TEMPLATE  # The task's template in training; with another one, fields mean something else.
    numbers: Annotated[tuple[NumberField, ...], Field(max_length=MAX_FIELDS)]
    values: Annotated[tuple[ValueField, ...], Field(max_length=MAX_FIELDS)]
    components: Annotated[tuple[Component, ...], Field(max_length=MAX_COMPONENTS)]
    scores: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=MAX_SCORES)]
    """The scores of usual rows that were held out, rising."""
    tail: Tail | None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError("should have fields of different names")
        if any(number.low > number.high for number in self.numbers):
            raise ValueError("ranges of numbers should rise")
        if bool(self.numbers) != bool(self.components):
            raise ValueError("should have components for its numbers, and none without")
        for component in self.components:
            triangle = [len(row) for row in component.covariance]
            if len(component.mean) != len(self.numbers) or triangle != list(range(1, len(self.numbers) + 1)):
                raise ValueError("components should have a mean and a covariance for each number")
        if any(low > high for low, high in zip(self.scores, self.scores[1:], strict=False)):
            raise ValueError("scores should rise")
        return self

    @property
    def names(self) -> list[str]:
        return [*(number.name for number in self.numbers), *(field.name for field in self.values)]


class UsualReadingsFile(_Checked):
    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    kind: Literal["unusual"] = "unusual"
    tasks: Annotated[dict[str, UsualReadings], Field(min_length=1)]


def read_usual_readings(data: bytes) -> UsualReadingsFile:
    """Raises ValueError (also pydantic's ValidationError) for anything that `edge-convert train` did not write."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"should be at most {MAX_BYTES} bytes")
    return UsualReadingsFile.model_validate(parse_json(data.decode()))
