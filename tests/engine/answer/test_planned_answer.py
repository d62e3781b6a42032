"""Extracts by plan on the demonstration model: steps, tokens, batches, budgets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.core.protocol import Failed, FailureCode, Finish, Finished, Partial, Sampling, SchemaPlan
from edge_agent.engine.answer.answers import TextAnswer
from edge_agent.engine.answer.planned_answer import PlannedAnswer
from edge_agent.engine.llama import DecodeError
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.request import Request
from tests.engine.runs import SCHEMA, answer_all, ends, finished, messages, run

OpenLlama = Callable[..., LlamaEngine]


def _schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


CHOICES = _schema(
    fault={"enum": ["wear", "leak", "none"]},
    severity={"type": "integer", "minimum": 1, "maximum": 5},
    unit={"const": "mm/s"},
    stop={"type": "boolean"},
)
LARGE = _schema(
    pump={"type": "string", "pattern": r"^[A-Z]{1,3}-\d{2}$"},
    celsius={"type": "number", "minimum": -20, "maximum": 150},
    marks={"type": "array", "items": {"enum": ["hot", "loud", "leaking"]}, "maxItems": 3},
    note={"type": ["string", "null"], "maxLength": 20},
    parts={"type": "array", "items": _schema(name={"type": "string", "maxLength": 8}), "minItems": 1, "maxItems": 2},
)


def _decided(request: Request) -> list[int]:
    assert isinstance(request.answer, PlannedAnswer)
    return request.answer.tokens


def _steps(engine: LlamaEngine, plan: SchemaPlan, number: int = 1) -> int:
    before = engine.progress().steps_total
    finished(engine, run(number, "7 mm/s", plan, max_tokens=100))
    return engine.progress().steps_total - before


def test_a_choice_costs_one_step_and_forced_text_none(open_llama: OpenLlama) -> None:
    engine = open_llama()
    first_tokens = {engine._intake._text_tokens.of(text)[0] for text in ("wear", "leak", "none")}
    assert len(first_tokens) == 3

    assert _steps(engine, SchemaPlan(schema=CHOICES)) == 3


def test_what_is_decoded_with_the_prompt_counts_as_written(open_llama: OpenLlama) -> None:
    engine = open_llama()
    plan = SchemaPlan(schema=CHOICES)
    prompt = len(engine._intake._chat.prompt(messages("7 mm/s"), thinks=False)[0])
    before = engine.progress()

    answer = finished(engine, run(1, "7 mm/s", plan, max_tokens=100))[1]

    assert answer.text is not None
    assert answer.prompt_tokens == prompt
    # Not one token more or less than the text has.
    assert answer.completion_tokens == len(engine._llama.tokenize(answer.text, parse_special=False))
    after = engine.progress()
    assert after.prompt_tokens_total - before.prompt_tokens_total == prompt
    assert after.completion_tokens_total - before.completion_tokens_total == answer.completion_tokens


def test_the_tokens_of_choices_are_those_of_the_whole_text(open_llama: OpenLlama) -> None:
    engine = open_llama()
    schema = _schema(
        a={"enum": ["bearing", "bearing fault", "fault"]},
        b={"type": "array", "items": {"enum": ["x", "xy", "z"]}, "maxItems": 3},
        c={"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        d={"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 120}, "maxItems": 3},
        e=_schema(f={"enum": [None, True, 1, "1"]}),
    )
    for number in range(20):
        sampling = Sampling(temperature=5.0, seed=number)
        engine.add(run(number, "x", SchemaPlan(schema=schema), max_tokens=200, sampling=sampling))
        request, stream = engine._requests[number], None
        while number in engine._requests:
            engine.step()
            stream = request.stream or stream
        answer = request.answer
        assert isinstance(answer, PlannedAnswer)
        assert stream is not None
        whole = engine._llama.tokenize(answer.text, parse_special=False)
        # What closes the object is written, but never decoded.
        decoded = stream.tokens[len(request.prompt) :]
        assert decoded == whole[: len(decoded)]
        assert answer.completion_tokens == len(whole)


@pytest.mark.parametrize("schema", [SCHEMA, CHOICES, LARGE])
def test_extracts_answer_alone_as_in_a_batch_of_eight(open_llama: OpenLlama, schema: dict[str, Any]) -> None:
    runs = [run(n, f"pump {n} is hot and loud", SchemaPlan(schema=schema), max_tokens=120) for n in range(8)]
    together = finished(open_llama(max_active=8, context_tokens=2048), *runs)
    engine = open_llama()

    assert max(answer.batch for answer in together.values()) == 8
    for one in runs:
        assert finished(engine, one)[one.id].text == together[one.id].text


def test_sampled_extracts_keep_to_what_only_the_plan_can_hold(open_llama: OpenLlama) -> None:
    runs = [
        run(n, "x", SchemaPlan(schema=LARGE), max_tokens=150, sampling=Sampling(temperature=2.0, top_k=40, seed=n))
        for n in range(12)
    ]
    texts = [answer.text or "" for answer in finished(open_llama(context_tokens=2048), *runs).values()]

    assert len(set(texts)) > 6
    for text in texts:
        assert re.fullmatch(r"[A-Z]{1,3}-\d{2}", json.loads(text)["pump"])


def test_a_sampled_extract_follows_its_seed(open_llama: OpenLlama) -> None:
    engine = open_llama()
    plan, warm = SchemaPlan(schema=LARGE), Sampling(temperature=3.0, seed=7)

    first = finished(engine, run(1, "x", plan, max_tokens=150, sampling=warm))[1].text

    assert finished(engine, run(2, "x", plan, max_tokens=150, sampling=warm))[2].text == first


def test_an_answer_is_closed_before_max_tokens_cut_it_off(open_llama: OpenLlama) -> None:
    schema = _schema(note={"type": "string"}, more={"type": "array", "items": {"type": "string"}})
    engine = open_llama()

    for max_tokens in range(20, 30):
        answer = finished(engine, run(1, "write", SchemaPlan(schema=schema), max_tokens=max_tokens))[1]
        assert answer.finish is Finish.SCHEMA
        assert answer.completion_tokens <= max_tokens


def test_max_tokens_that_forced_text_alone_uses_up_fail(open_llama: OpenLlama) -> None:
    engine = open_llama()

    for max_tokens in (1, 2, 5, 10):
        end = ends(answer_all(engine, run(1, "x", SchemaPlan(schema=CHOICES), max_tokens=max_tokens)))[1]
        assert isinstance(end, Failed)
        assert end.code is FailureCode.NO_VALID_OUTPUT
        assert end.message == f"max_tokens ({max_tokens}) ended the answer before its JSON was complete"


def test_a_planned_answer_streams_what_it_writes(open_llama: OpenLlama) -> None:
    events = answer_all(open_llama(), run(1, "x", SchemaPlan(schema=LARGE), max_tokens=120, stream=True))

    deltas = [event.delta for event in events if isinstance(event, Partial)]
    assert deltas[0].startswith('{"pump":"')
    assert "".join(deltas) == finished(open_llama(), run(1, "x", SchemaPlan(schema=LARGE), max_tokens=120))[1].text


def test_a_schema_without_a_plan_is_written_under_its_grammar(open_llama: OpenLlama) -> None:
    node: dict[str, Any] = {**_schema(name={"type": "string", "maxLength": 4}), "additionalProperties": True}
    node["properties"]["next"] = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    engine = open_llama()

    assert isinstance(engine._intake.request(run(1, "x", SchemaPlan(schema=SCHEMA))).answer, PlannedAnswer)
    assert isinstance(engine._intake.request(run(1, "x", SchemaPlan(schema=node))).answer, TextAnswer)
    text = finished(engine, run(1, "x", SchemaPlan(schema=node), max_tokens=60))[1].text
    assert text is not None
    assert json.loads(text)["name"] is not None


@pytest.mark.expects_warning
def test_an_answer_that_a_failed_step_interrupts_goes_on_where_it_was(
    open_llama: OpenLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SchemaPlan(schema=_schema(a={"type": "boolean"}, b={"const": "long text " * 20}, c={"type": "boolean"}))
    engine = open_llama(batch_tokens=64, context_tokens=2048)
    expected = finished(engine, run(1, "pump 1", plan, max_tokens=250))[1]
    for number in range(4):
        engine.add(run(number, "pump 1", plan, max_tokens=250))
    # All that write want more than a batch has room for.
    while sum(len(_decided(request)) > 64 for request in engine._requests.values()) < 2:
        engine.step()

    def fail(*_: object, **__: object) -> None:
        raise DecodeError("llama_decode gave -3")

    with monkeypatch.context() as patch:
        patch.setattr(engine._llama, "decode", fail)
        events = engine.step()
    failed = len(events)
    while engine.has_work:
        events += engine.step()
        for request in engine._requests.values():
            decided = [*request.prompt, *_decided(request)]
            assert request.stream is None or request.stream.tokens[: len(decided)] == decided

    answers = [end for end in ends(events).values() if isinstance(end, Finished)]
    assert 0 < failed < 4
    assert len(answers) == 4 - failed
    for answer in answers:
        assert (answer.text, answer.completion_tokens) == (expected.text, expected.completion_tokens)
