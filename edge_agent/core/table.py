"""What the tables of the configuration have in common."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_agent.core import topics

_T = TypeVar("_T")


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def checked(fault: str | None, value: _T) -> _T:
    """The value, if there is no fault."""
    if fault:
        raise ValueError(fault)
    return value


TopicFilter = Annotated[str, AfterValidator(lambda text: checked(topics.filter_fault(text), text))]
RatePerMinute = Annotated[int, Field(ge=1, le=100_000)]
