"""Requests that the engine's tests send, and what comes back."""

from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.core.pipe import (
    Cancelled,
    ChatMessage,
    EngineRequest,
    Event,
    Failed,
    Finished,
    LabelsPlan,
    SchemaPlan,
    TaskPrefix,
    TextPlan,
)
from edge_agent.engine.engine import Engine
from edge_agent.engine.llama_engine import LlamaEngine

END = (Finished, Failed, Cancelled)
OpenLlama = Callable[..., LlamaEngine]
Plan = LabelsPlan | SchemaPlan | TextPlan
LABELS = LabelsPlan(labels=("normal", "bearing fault", "bearing wear", "cavitation"))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pump": {"type": "string", "minLength": 1, "maxLength": 8},
        "severity": {"type": "integer", "minimum": 1, "maximum": 5},
        "urgent": {"type": "boolean"},
    },
    "required": ["pump", "severity", "urgent"],
    "additionalProperties": False,
}
PLANS: tuple[Plan, ...] = (LABELS, TextPlan(), SchemaPlan(schema=SCHEMA))


def asking(messages: Sequence[ChatMessage]) -> EngineRequest:
    """A request with these messages, for its prompt alone."""
    return EngineRequest(id=1, task="t", messages=tuple(messages), plan=TextPlan())


def system(text: str) -> tuple[ChatMessage, ...]:
    return (ChatMessage(role="system", content=text),)


TASK = TaskPrefix(task="triage", messages=system("You sort the readings of pumps."), user_prefix="Reading: ")


def messages(text: str, task: TaskPrefix = TASK) -> tuple[ChatMessage, ...]:
    return (*task.messages, ChatMessage(role="user", content=task.user_prefix + text))


def run(request_id: int, text: str, plan: Plan | None = None, **options: Any) -> EngineRequest:
    """A request of the task above, which writes at most 12 tokens unless it says otherwise."""
    options = {"task": TASK.task, "max_tokens": 12, "messages": messages(text), **options}
    return EngineRequest(id=request_id, plan=plan or TextPlan(), **options)


def answer_all(engine: Engine, *runs: EngineRequest) -> list[Event]:
    """Every event until nothing is left to do."""
    events = [event for one in runs if (event := engine.add(one)) is not None]
    while engine.has_work:
        events += engine.step()
    return events


def ends(events: list[Event]) -> dict[int, Event]:
    """The terminal event of each request by its id; more than one is a mistake."""
    found: dict[int, Event] = {}
    for event in events:
        if isinstance(event, END):
            assert event.id not in found, f"request {event.id} ended twice"
            found[event.id] = event
    return found


def failed(engine: Engine, request: EngineRequest) -> Failed:
    """How a request ends that cannot be answered."""
    end = ends(answer_all(engine, request))[request.id]
    assert isinstance(end, Failed)
    return end


def finished(engine: Engine, *runs: EngineRequest) -> dict[int, Finished]:
    """The answers by request id, for requests that must all be answered."""
    answers = {}
    for request_id, event in ends(answer_all(engine, *runs)).items():
        assert isinstance(event, Finished), event
        answers[request_id] = event
    assert answers.keys() == {one.id for one in runs}
    return answers
