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
    """The fields that an input must have, those of an object in it after a dot, such as `motor.rpm`. Without one, an
    input is unlike a trained model's training; for any other model it is refused as `bad_field`, also if the field is
    null or a blank text. Default: those that every row of the training had."""

    def refuses(self, event: Finished) -> bool:
        return self.outside == "refuse" and super().refuses(event)


class AuditedTask(FieldsTask):
    audit_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of replies, chosen at random, that ask the caller for feedback by `"please_check": true`. Needs
    `feedback.enabled`."""

    info_fields = (*FieldsTask.info_fields, "audit_rate")
