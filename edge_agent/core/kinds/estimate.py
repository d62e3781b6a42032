"""The kind `estimate`: a number, and an interval that contains the true one as often as you ask."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from edge_agent.core.envelope import Options
from edge_agent.core.kinds.fields import AuditedTask
from edge_agent.core.pipe import Finished, NumberPlan, Plan
from edge_agent.core.strict_json import MAX_NUMBER, number_of

DEFAULT_TOLERANCE = 0.2
_Number = Annotated[float, Field(allow_inf_nan=False, strict=False)]
Ranges = Sequence[tuple[float, float, float]]  # The start, the end and the probability of each.


class EstimateTask(AuditedTask):
    """Answers with a number and an interval for the true one. Only a [trained model](training.md#a-number) can."""

    kind: Literal["estimate"]
    """What an answer is."""
    unit: str | None = None
    """The unit of the number, such as `h`, for people. Default: none."""
    minimum: _Number | None = None
    """No true number is smaller. Default: no limit."""
    maximum: _Number | None = None
    """No true number is greater. Default: no limit."""
    confidence: Annotated[float, Field(ge=0.5, le=0.95)] = 0.8
    """How often `interval` contains the true number."""
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)] | None = None
    """How far from the true number an answer may be and still count as right. Default: a fifth of the true number."""

    @field_validator("maximum")
    @classmethod
    def _check_maximum(cls, maximum: float | None, info: ValidationInfo) -> float | None:
        minimum = info.data.get("minimum")
        if maximum is not None and minimum is not None and maximum <= minimum:
            raise ValueError("should be greater than `minimum`")
        return maximum

    definition_fields = (*AuditedTask.definition_fields, "minimum", "maximum", "confidence")
    info_fields = (*AuditedTask.info_fields, "unit", "minimum", "maximum", "confidence")
    writes = False
    is_number = True
    takes_feedback = True
    canary_part = "scores"

    def plan(self, options: Options) -> Plan:  # noqa: ARG002 - an answer has no options
        return NumberPlan(required=self.required)

    def output_of(self, event: Finished) -> float:
        return self.median_of(event.scores or {})

    def reply_fields(self, event: Finished) -> dict[str, Any]:
        return {"interval": None if self.refuses(event) else self.interval_of(event.scores or {})}

    def median_of(self, scores: Mapping[str, float]) -> float:
        """The median, whose mean absolute error is the smallest."""
        return self._quantile(scores, 0.5)

    def interval_of(self, scores: Mapping[str, float]) -> list[float]:
        """The central interval: the true number is as often below it as above."""
        outside = (1 - self.confidence) / 2
        return [self._quantile(scores, outside), self._quantile(scores, 1 - outside)]

    def _quantile(self, scores: Mapping[str, float], share: float) -> float:
        number = quantile(ranges_of(scores), share)
        if self.minimum is not None:
            number = max(number, self.minimum)
        if self.maximum is not None:
            number = min(number, self.maximum)
        return number

    def answer_fault(self, answer: object) -> str | None:
        number, low, high = number_of(answer), self.minimum, self.maximum
        if number is not None and abs(number) > MAX_NUMBER:
            return f"answer: should be a number from -{MAX_NUMBER:g} to {MAX_NUMBER:g}"
        if number is not None and (low is None or number >= low) and (high is None or number <= high):
            return None
        limits = ([] if low is None else [f"at least {low:g}"]) + ([] if high is None else [f"at most {high:g}"])
        return f"answer: should be {' '.join(['a number', *limits[:1], *(f'and {limit}' for limit in limits[1:])])}"

    def is_right(self, output: object, answer: object) -> bool:
        """Whether the output is within the tolerance."""
        number, true = number_of(output), number_of(answer)
        if number is None or true is None:
            return False
        return abs(number - true) <= (DEFAULT_TOLERANCE * abs(true) if self.tolerance is None else self.tolerance)

    def canonical_answer(self, answer: Any) -> Any:
        """The answer as a number; rows in CSV have it as text."""
        return number_of(answer)

    def sample_answers(self) -> list[str]:
        return ["0"]


def ranges_of(scores: Mapping[str, float]) -> Ranges:
    """The ranges that the scores of a NumberPlan are named after."""
    ends = (map(float, name.split("..")) for name in scores)
    return [(start, end, chance) for (start, end), chance in zip(ends, scores.values(), strict=True)]


def quantile(ranges: Ranges, share: float) -> float:
    """The number below which this share of the true ones is expected, rounded to a thousandth of its range."""
    below = 0.0
    for start, end, chance in ranges:
        if chance > 0 and below + chance >= share:
            digits = 3 - math.floor(math.log10(end - start))
            return min(max(round(start + (end - start) * (share - below) / chance, digits), start), end)
        below += chance
    return max((end for _, end, _ in ranges), default=math.nan)


def level_of(ranges: Ranges, number: float) -> float:
    """The share of the true numbers that is expected below this one."""
    return sum(chance * min(max((number - start) / (end - start), 0.0), 1.0) for start, end, chance in ranges)
