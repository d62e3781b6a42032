"""A task's kept answers, as `cmd/feedback-export` gives them and `edge-agent accuracy --out` keeps them in a file."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import first_fault
from edge_agent.learning.maths.shares import CONFIDENCE

_Text = Annotated[str, Field(min_length=1, max_length=512)]
_Score = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=100_000)]
_Counts = Annotated[tuple[_Score, _Count, _Count], Field(strict=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class ExportedAnswer(_Part):
    """A `KeptAnswer` as the bus carries it, without what names the caller."""

    number: int
    at: str | None  # RFC 3339; None if the clock was unset.
    scores: Annotated[dict[str, _Score], Field(min_length=1)]
    output: str | None
    label: str | None
    is_marked: bool
    is_audit: bool
    is_refused: bool = False  # Earlier versions do not say.


class ExportedNumber(_Part):
    """The same for the kind `estimate`."""

    number: int
    at: str | None
    interval: Annotated[tuple[_Number, _Number] | None, Field(strict=False)]  # None without an output.
    output: _Number | None  # None if the input is unlike training.
    label: _Number | None  # The true number.
    is_marked: bool
    is_audit: bool


class _Exported(_Part):
    """All answers of one task of one board, in the order of time."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    site: _Text
    device: _Text
    task: _Text
    definition: _Text  # A hash of the task's definition.
    model: _Text  # A hash of the model's files.

    @property
    def board(self) -> str:
        return f"{self.site}/{self.device}"

    def encode(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode() + b"\n"


class NumberExport(_Exported):
    """The answers of a task of the kind `estimate`."""

    kind: Literal["estimate"]
    confidence: _Score  # How often intervals should hold the true number.
    unit: str | None
    answers: Annotated[tuple[ExportedNumber, ...], Field(strict=False)]


class Export(_Exported):
    """The answers of a task of the kind `classify`."""

    # Boards of earlier versions do not send the next six.
    min_score: _Score = 0.0
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = CONFIDENCE  # Of promises.
    held_out: Annotated[tuple[_Counts, ...], Field(strict=False)] = ()
    """By score, how many rows are right and how many there are, of those that training held out and that say something
    about the answers now."""
    earlier: int = 0  # How many audits that count an earlier model was asked first.
    is_overdue: bool = False  # Whether audits after the newest answered one count as not answered.
    map: dict[str, Any] | None  # The one in force.
    prior: dict[str, Any] | None  # The map that divides by the model's prior.
    since: int  # Audits up to this number are from before a drop of the accuracy.
    answers: Annotated[tuple[ExportedAnswer, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(answer.scores.keys() != set(self.labels) for answer in self.answers):
            raise ValueError("the answers have scores of different labels")
        for value in (self.map, self.prior):
            if value is not None and self.answers:
                ScoreMap.from_json(value, self.labels)
        return self

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Empty without an answer."""
        return tuple(self.answers[0].scores) if self.answers else ()

    def map_of(self, part: Literal["map", "prior"]) -> ScoreMap:
        """The identity where there is none."""
        value = getattr(self, part)
        # Without an answer there is nothing to map.
        labels = self.labels or ("",)
        return ScoreMap.identity(labels) if value is None or not self.labels else ScoreMap.from_json(value, labels)

    @property
    def training(self) -> list[ExportedAnswer]:
        """The answers with feedback that maps are fitted to."""
        return [answer for answer in self.answers if answer.is_marked and not self.measures(answer)]

    def measures(self, answer: ExportedAnswer) -> bool:
        """Whether it is an audit that counts; all other feedback trains."""
        return answer.is_audit and answer.number > self.since


def read_export(data: bytes) -> Export:
    """What `encode` wrote. Raises ValueError, whose message says in one line what is wrong."""
    try:
        return Export.model_validate(parse_json(data.decode()))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
