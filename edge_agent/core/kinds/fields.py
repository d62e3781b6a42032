"""What tasks have in common if a trained model, which reads the fields of an input, may answer them."""

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.pipe import Finished


class FieldsTask(TaskBase):
    outside: Literal["refuse", "answer"] = "refuse"
    """What a trained model does with an input that is unlike its training. `refuse`: `output` is null. `answer`: the
    input is answered anyway. In either case `degraded` says so."""
    required: tuple[str, ...] | None = Field(default=None, strict=False)
    """The fields that an input must have; one of a nested object is named with a dot, such as `motor.rpm`. If one is
    missing, null or a blank text, a trained model takes the input for unlike its training; with any other model, the
    request is refused as `bad_field`. Default: those that every row of the training had."""

    def refuses(self, event: Finished) -> bool:
        return self.outside == "refuse" and super().refuses(event)


class AuditedTask(FieldsTask):
    audit_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of replies, chosen at random, that ask the caller for feedback by `"please_check": true`. Needs
    `feedback.enabled`."""

    info_fields = (*FieldsTask.info_fields, "audit_rate")
