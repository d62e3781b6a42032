"""The validity, steps, tokens and batches of answers to schemas on the demonstration model."""

import json
from typing import Any

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.pipe import Failed, Finish, Finished, Partial, Sampling, SchemaPlan
from edge_agent.core.schemas import validator
from edge_agent.engine.answer.answer import InvalidOutputError
from edge_agent.engine.answer.json_answer import JsonSchema
from edge_agent.engine.llama_engine import LlamaEngine
from tests.core.test_schemas import schema_of
from tests.engine.runs import SCHEMA, OpenLlama, answer_all, asking, ends, failed, finished, messages, run

CHOICES = schema_of(
    fault={"enum": ["wear", "leak", "none"]},
    severity={"type": "integer", "minimum": 1, "maximum": 5},
    unit={"const": "mm/s"},
    stop={"type": "boolean"},
)
LARGE = schema_of(
    pump={"type": "string", "pattern": r"^[A-Z]{1,3}-\d{2}$"},
    celsius={"type": "number", "multipleOf": 1, "minimum": -20, "maximum": 150},
    marks={"type": "array", "items": {"enum": ["hot", "loud", "leaking"]}, "maxItems": 3},
    note={"type": ["string", "null"], "maxLength": 20},
    parts={"type": "array", "items": schema_of(name={"type": "string", "maxLength": 8}), "minItems": 1, "maxItems": 2},
)
SCHEMAS = (
    SCHEMA,
    CHOICES,
    LARGE,
    schema_of(v={"enum": ["a\\b", 'q"', "é°", 1, None, [1], {"x": {}}]}),
    schema_of(v={"prefixItems": [{"const": 1}, {"type": "boolean"}], "items": False}),
    schema_of(v={"anyOf": [{"type": "integer", "minimum": 0, "maximum": 999}, {"type": "null"}]}),
    schema_of(v={"oneOf": [{"type": "boolean"}, {"const": "none"}]}),
    schema_of(v={"allOf": [{"type": "string", "maxLength": 3}, {"minLength": 2}]}),
    {**schema_of(v={"$ref": "#/$defs/x"}), "$defs": {"x": {"type": "array", "items": {"const": 2}, "maxItems": 3}}},
    {"type": "object", "properties": {"a": {"const": 1}, "b": {"type": "boolean"}}, "additionalProperties": False},
    {"type": "object", "properties": {}, "additionalProperties": False},
)


def _steps(engine: LlamaEngine, schema: dict[str, Any], number: int = 1) -> int:
    before = engine.progress().steps_total
    finished(engine, run(number, "7 mm/s", SchemaPlan(schema=schema), max_tokens=100))
    return engine.progress().steps_total - before


def test_whatever_the_model_likes_its_answer_validates(open_llama: OpenLlama) -> None:
    engine = open_llama(context_tokens=2048)
    for schema in SCHEMAS:
        hot = (Sampling(temperature=9.0, seed=seed) for seed in range(4))
        runs = [run(n, "x", SchemaPlan(schema=schema), max_tokens=250, sampling=one) for n, one in enumerate(hot)]
        for answer in finished(engine, *runs).values():
            assert answer.finish is Finish.SCHEMA
            assert answer.text is not None
            validator(schema).validate(json.loads(answer.text))
            assert answer.text == json.dumps(json.loads(answer.text), ensure_ascii=False, separators=(",", ":"))


def test_a_choice_costs_one_step_and_forced_text_none(open_llama: OpenLlama) -> None:
    engine = open_llama()
    assert _steps(engine, CHOICES) == 3
    assert _steps(engine, schema_of(version={"const": 1}, unit={"enum": ["mm/s"]})) == 1


def test_a_string_is_chosen_with_the_tokens_that_the_tokenizer_makes_of_it(open_llama: OpenLlama) -> None:
    plan = SchemaPlan(
        schema=schema_of(fault={"enum": ["bearing fault", "bearing noise", "blocked filter", "none", "no"]})
    )
    runs = [run(n, "x", plan, max_tokens=50, sampling=Sampling(temperature=9.0, seed=n)) for n in range(30)]
    answers = finished(open_llama(context_tokens=2048), *runs).values()
    lengths = {(answer.text, answer.completion_tokens) for answer in answers}
    assert len(lengths) == len({answer.text for answer in answers}) == 5


def test_forced_tokens_count_as_written(open_llama: OpenLlama) -> None:
    engine = open_llama()
    prompt = len(engine._builder.build(asking(messages("7 mm/s"))).prompt)
    before = engine.progress()

    answer = finished(engine, run(1, "7 mm/s", SchemaPlan(schema=CHOICES), max_tokens=100))[1]

    assert answer.text is not None
    assert answer.prompt_tokens == prompt
    assert answer.completion_tokens > 10
    after = engine.progress()
    assert after.prompt_tokens_total - before.prompt_tokens_total == prompt
    assert after.completion_tokens_total - before.completion_tokens_total == answer.completion_tokens


def test_an_answer_that_max_tokens_cuts_off_fails(open_llama: OpenLlama) -> None:
    engine = open_llama()
    for max_tokens in (1, 2, 5, 10):
        end = failed(engine, run(1, "x", SchemaPlan(schema=CHOICES), max_tokens=max_tokens))
        assert end.code is Code.NO_VALID_OUTPUT
        assert end.message == f"max_tokens ({max_tokens}) ended the answer before its JSON was complete"


def test_an_answer_streams_what_it_writes(open_llama: OpenLlama) -> None:
    events = answer_all(open_llama(), run(1, "x", SchemaPlan(schema=CHOICES), max_tokens=120, stream=True))
    deltas = [event.delta for event in events if isinstance(event, Partial)]
    assert len(deltas) > 1
    (answer,) = (event for event in events if isinstance(event, Finished))
    assert "".join(deltas) == answer.text


def test_keywords_that_cannot_be_held_to_are_validated(open_llama: OpenLlama) -> None:
    schema = schema_of(n={"type": "integer", "minimum": 1, "maximum": 5, "not": {"minimum": 0}})
    end = failed(open_llama(), run(1, "x", SchemaPlan(schema=schema), max_tokens=50))
    assert end.code is Code.NO_VALID_OUTPUT
    assert end.message.startswith("output.n: ")


@pytest.mark.expects_warning
@pytest.mark.parametrize(
    "schema", [schema_of(v={"type": "string", "pattern": "^(?=a)"}), {"type": "object", "allOf": [{"$ref": "#"}]}]
)
def test_without_a_grammar_answers_are_free_and_validated(open_llama: OpenLlama, schema: dict[str, Any]) -> None:
    found = ends(answer_all(open_llama(), run(1, "x", SchemaPlan(schema=schema), max_tokens=10), run(2, "y")))
    assert isinstance(found[1], Failed)
    assert found[1].code is Code.NO_VALID_OUTPUT
    assert isinstance(found[2], Finished)


def test_what_the_reply_cannot_hold_is_no_valid_output(open_llama: OpenLlama) -> None:
    schema = JsonSchema(open_llama()._llama, schema_of(v={"type": ["number", "string"]}))
    for text, message in (
        ('{"v":1e999}', "the answer is not JSON: Out of range"),
        ('{"v":"\\ud800"}', "the answer is not JSON: 'utf-8' codec"),
        ('{"v":', "the answer is not JSON: Expecting value"),
        ('{"w":1}', "output: 'v' is a required property"),
        ('{"v":[]}', r"output.v: \[\] is not of type"),
    ):
        with pytest.raises(InvalidOutputError, match=message):
            schema.check(text, Finish.SCHEMA, 60)
