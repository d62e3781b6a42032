"""The kind `unusual`: whether a reading is unlike the usual ones of its machine, and which fields make it so."""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edge_agent.core.envelope import Options
from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.pipe import Finished, Plan, SchemaPlan
from edge_agent.core.wording import shown

# What feedback and rows call a reading that is usual, and what bare replies say.
USUAL, UNUSUAL = "usual", "unusual"
# The engine explains readings that are at least this rare, so no task may ask for more false alarms.
MAX_FALSE_ALARMS = 0.1
MIN_FALSE_ALARMS = 1e-5
_RATE = re.compile(r"(\d{1,6}) per (?:(\d{1,7}) readings|(hour|day|week|month))")
_SECONDS = {"hour": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000}
# What the model writes, from which `output_of` makes the caller's output.
PLAN = SchemaPlan(
    schema={
        "type": "object",
        "required": ["score", "rarity", "because"],
        "properties": {"score": {"type": "number"}, "rarity": {"type": "number"}, "because": {"type": "array"}},
    }
)


class UnusualTask(TaskBase):
    """Says whether a reading is unusual, by a small model that has learnt from usual readings alone, without labels.

    `edge-convert train` makes that model from rows without answers. The bundle's large model is never asked.
    """

    kind: Literal["unusual"]
    """What an answer is."""
    false_alarms: str = "1 per 1000 readings"
    """How many usual readings may be taken for unusual ones: `N per M readings`, or `N per hour`, `day`, `week` or
    `month`, which needs `reading_interval_s`. At most 1 in 10 readings."""
    reading_interval_s: Annotated[float, Field(gt=0, le=2_592_000)] | None = None
    """How often each machine is read, in seconds. Default: none."""
    usual: Annotated[tuple[str, ...], Field(min_length=1, max_length=20, strict=False)] = (USUAL, "normal")
    """The answers that mark labelled rows as usual, in upper or lower case; `usual` always does. Rows without an answer
    are usual, too; all others only judge the model."""

    @field_validator("false_alarms")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        match = _RATE.fullmatch(rate)
        if match is None or not int(match[1]) or match[2] == "0":
            raise ValueError("should be a rate such as `1 per week` or `1 per 1000 readings`")
        return rate

    @field_validator("no_output")
    @classmethod
    def _check_no_output_is_no_answer(cls, text: str | None) -> str | None:
        if text in (USUAL, UNUSUAL):
            raise ValueError(f"should not be one of the answers (got {shown(text)})")
        return text

    @model_validator(mode="after")
    def _check_max_rarity(self) -> Self:
        if _SECONDS.keys() & {self._per} and self.reading_interval_s is None:
            raise ValueError(f"false_alarms: `per {self._per}` requires `reading_interval_s`")
        if not MIN_FALSE_ALARMS <= self.max_rarity <= MAX_FALSE_ALARMS:
            rule = f"{MIN_FALSE_ALARMS:.0e} to {MAX_FALSE_ALARMS} of the readings"
            raise ValueError(f"false_alarms: should be {rule} (got {self.max_rarity:.3g} of them)")
        return self

    definition_fields = (*TaskBase.definition_fields, "false_alarms", "reading_interval_s")
    info_fields = (*TaskBase.info_fields, "false_alarms")
    has_own_model = True
    writes = False
    takes_feedback = True
    notable = "unusual"
    canary_part = "values"
    init_keys = {"false_alarms": "1 per 1000 readings"}  # noqa: RUF012 - a ClassVar of TaskBase

    @property
    def _per(self) -> str:
        return self.false_alarms.rpartition(" ")[2]

    @property
    def max_rarity(self) -> float:
        """The share of usual readings that may be taken for unusual ones."""
        match = _RATE.fullmatch(self.false_alarms)
        assert match is not None
        readings = float(match[2]) if match[2] else _SECONDS[match[3]] / (self.reading_interval_s or 1.0)
        return int(match[1]) / readings

    def plan(self, options: Options) -> Plan:  # noqa: ARG002 - an answer has no options
        return PLAN

    def output_of(self, event: Finished) -> dict[str, Any]:
        answer = json.loads(event.text or "")
        is_unusual = answer["rarity"] <= self.max_rarity
        because = answer["because"] if is_unusual else []
        return {"unusual": is_unusual, "rarity": answer["rarity"], "because": because}

    def is_notable(self, output: Any) -> bool:
        return output is not None and bool(output["unusual"])

    @property
    def max_notable(self) -> float:
        return self.max_rarity

    def confirms_notable(self, answer: str) -> bool:
        return not self.is_usual(answer)

    def change_key(self, output: Any) -> bool:
        """The rarity is left out, because it differs each time."""
        return bool(output["unusual"])

    def bare_output(self, output: Any) -> str:
        """A word, because the fields that explain it do not fit into the buffers of small clients."""
        return UNUSUAL if output["unusual"] else USUAL

    def is_usual(self, answer: str) -> bool:
        return answer.strip().casefold() in {USUAL, *(usual.casefold() for usual in self.usual)}

    def answer_fault(self, answer: object) -> str | None:
        is_text = isinstance(answer, str) and answer.strip()
        return None if is_text else f"answer: should be `{USUAL}`, or any text that says what the reading was"

    def is_right(self, output: object, answer: object) -> bool:
        return isinstance(output, dict) and output["unusual"] is not self.is_usual(str(answer))
