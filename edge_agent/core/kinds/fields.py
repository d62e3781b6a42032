"""What tasks have in common whose model may read the fields of an input, as one of `edge-convert train` does."""

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.core.kinds.task import TaskBase
from edge_agent.core.pipe import Finished


class FieldsTask(TaskBase):
    outside: Literal["refuse", "answer"] = "refuse"
    """What a trained model does with an input that is not as its training was, which `degraded` says. `refuse`:
    `output` is null. `answer`: it is answered all the same."""
    required: tuple[str, ...] | None = Field(default=None, strict=False)
    """Fields that a trained model expects in each input; an input without one is not as its training was. Default:
    those that every row of the training had."""

    def refuses(self, event: Finished) -> bool:
        return self.outside == "refuse" and super().refuses(event)


class AuditedTask(FieldsTask):
    audit_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of full replies, chosen at random, that ask the caller for feedback by `"please_check": true`. Needs
    `feedback.enabled`."""
