"""What only the engine without a model can get wrong: the smallest instance of a schema."""

from __future__ import annotations

import pytest

from edge_agent.core.messages import Code
from edge_agent.core.protocol import EngineSettings, Failed, Finished, Load, SchemaPlan
from edge_agent.engine import echo
from edge_agent.engine.echo import EchoEngine
from tests.engine.runs import SCHEMA, answer_all, ends, run


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine(Load(model_path="echo:", settings=EngineSettings()))


def test_a_schema_whose_smallest_instance_has_no_end_fails_its_request_alone(engine: EchoEngine) -> None:
    node = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    schema = {"type": "object", "properties": {"next": node}, "required": ["next"]}

    events = ends(answer_all(engine, run(1, "x", SchemaPlan(schema=schema)), run(2, "y")))

    failed = events[1]
    assert isinstance(failed, Failed)
    assert failed.code is Code.NO_VALID_OUTPUT
    assert isinstance(events[2], Finished)


def test_references_into_lists_are_followed(engine: EchoEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/x/anyOf/0"}},
        "required": ["a"],
        "$defs": {"x": {"anyOf": [{"type": "null"}]}},
    }

    answer = ends(answer_all(engine, run(1, "x", SchemaPlan(schema=schema))))[1]

    assert isinstance(answer, Finished)
    assert answer.text == '{"a":null}'


@pytest.mark.expects_warning
def test_whatever_goes_wrong_ends_the_request_and_no_other(engine: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TypeError("a mistake")

    monkeypatch.setattr(echo, "_smallest", fail)

    events = ends(answer_all(engine, run(1, "x", SchemaPlan(schema=SCHEMA)), run(2, "y")))

    assert events[1] == Failed(id=1, code=Code.INTERNAL, message="a mistake")
    assert isinstance(events[2], Finished)
    assert not engine.has_work
