"""The kind `classify`: one of a task's labels, and the probability of each."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from edge_agent.core.envelope import Options
from edge_agent.core.kinds.fields import AuditedTask
from edge_agent.core.labelled import label_of
from edge_agent.core.pipe import Finished, LabelsPlan, Plan
from edge_agent.core.table import Table

MAX_LABELS = 200
_Coefficient = Annotated[float, Field(ge=-1_000_000, le=1_000_000)]


class ScoreMapTable(Table):
    """Corrects a task's scores for one model, as fitted by `edge-agent tune`."""

    scale: dict[str, _Coefficient]
    """For each label, the factor of its score's logarithm."""
    bias: dict[str, _Coefficient]
    """For each label, what is added to that."""
    made_for: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    """A digest of the task's definition and the model's weights."""


class ClassifyTask(AuditedTask):
    """Answers with one of your labels, and the probability of each."""

    kind: Literal["classify"]
    """What an answer is."""
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_LABELS, strict=False)]
    """The labels to choose from, all different."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    """If the best label is below this probability, `output` is null, and `degraded` says `unsure`."""
    prior: Literal["corrected", "as-is"] | None = None
    """`corrected`: the scores are divided by what the model prefers when the input says nothing. Default: `corrected`
    while the answers collapse to the label that the model prefers, otherwise `as-is`; always `as-is` with `min_score`
    or `min_accuracy`."""
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the given answers that must be right. Less certain answers are not given, as with `min_score`. Until
    audits, or rows that a training held out, prove it, no answer is given. Needs `audit_rate`. Default: no promise."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """How sure the audits make `min_accuracy` and `agree`."""
    agree: Annotated[float, Field(gt=0, le=1)] = 0.98
    """If the bundle has a student for this task, the student may answer alone only where at least this share of its
    answers would match the large model's. With 1 the large model answers everything. With `min_accuracy`, at least that
    share must be right instead."""
    score_map: ScoreMapTable | None = None
    """Tables `scale` and `bias`, a number for each label, and the digest `made_for`, as `edge-agent tune` writes them.
    It is used instead of `prior` while task and model are those that it was made for. Default: none."""
    top_scores: Annotated[int, Field(ge=1, le=200)] | None = None
    """How many labels `scores` has, the most probable first. Default: all, in the order of `labels`."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not all(label.strip() for label in labels) or len(set(labels)) < len(labels):
            raise ValueError("should be distinct and not blank")
        if info.data.get("no_output") in labels:
            raise ValueError("should not contain the text of `no_output`, which says that there is no answer")
        return labels

    @field_validator("score_map")
    @classmethod
    def _check_score_map(cls, score_map: ScoreMapTable | None, info: ValidationInfo) -> ScoreMapTable | None:
        labels = info.data.get("labels")
        if score_map is None or labels is None:
            return score_map
        for key, numbers in (("scale", score_map.scale), ("bias", score_map.bias)):
            if numbers.keys() != set(labels):
                raise ValueError(f"{key} should have a number for each of {', '.join(labels)}")
        return score_map

    definition_fields = (*AuditedTask.definition_fields, "labels")
    info_fields = (*AuditedTask.info_fields, "labels", "min_score", "min_accuracy", "confidence", "top_scores")
    writes = False
    takes_feedback = True
    canary_part = "scores"
    init_keys = {"labels": None}  # noqa: RUF012 - a ClassVar of TaskBase
    init_system = "Name the condition that the reading shows: {labels}."

    @property
    def measures_prior(self) -> bool:
        return self.always_corrects_prior or (self.prior is None and not self.min_score and self.min_accuracy is None)

    @property
    def always_corrects_prior(self) -> bool:
        """Whether the scores are divided by the prior whatever the answers are; otherwise the answers decide."""
        return self.prior == "corrected"

    @property
    def choices(self) -> tuple[str, ...]:
        return self.labels

    def plan(self, options: Options) -> Plan:  # noqa: ARG002 - an answer has no options
        return LabelsPlan(labels=self.labels, required=self.required)

    def output_of(self, event: Finished) -> str | None:
        scores = event.scores or {}
        best = max(scores, key=scores.__getitem__)
        return best if scores[best] >= self.min_score else None

    def reply_fields(self, event: Finished) -> dict[str, Any]:
        """Each label's probability, or the `top_scores` largest, the largest first."""
        scores = {label: round(p, 6) for label, p in (event.scores or {}).items()}
        if self.top_scores is not None:
            scores = dict(sorted(scores.items(), key=lambda item: item[1], reverse=True)[: self.top_scores])
        return {"scores": scores}

    def answer_fault(self, answer: object) -> str | None:
        return f"answer: should be one of {', '.join(self.labels)}" if label_of(answer, self.labels) is None else None

    def canonical_answer(self, answer: Any) -> Any:
        return label_of(answer, self.labels)
