"""Plans of schemas, written by a model that knows nothing: what comes out is always valid."""

from __future__ import annotations

import json
import random
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.protocol import Finish, Sampling
from edge_agent.core.schemas import check_schema, validator
from edge_agent.engine.answer import schema_plan
from edge_agent.engine.answer.answer_guess import AnswerGuess
from edge_agent.engine.answer.first_bytes import FirstBytes
from edge_agent.engine.answer.number_slot import NumberSlot
from edge_agent.engine.answer.plan_steps import Choice, End, Literal, Step
from edge_agent.engine.answer.planned_answer import PlannedAnswer
from edge_agent.engine.answer.sampling import TokenPicker
from edge_agent.engine.answer.schema_plan import plan
from edge_agent.engine.answer.text_tokens import TextTokens
from edge_agent.engine.llama import Llama
from tests.engine.runs import SCHEMA

_MERGES = (
    '{"',
    '":"',
    '","',
    '"}',
    '"]',
    '["',
    '":',
    ',"',
    ".",
    '."',
    '",',
    "}}",
    "]}",
    "true",
    "false",
    "null",
    "low",
)
_CONTROL = b"<|im_end|>"


class RandomModel:
    """Stands in for Llama: every byte is a token, and some texts; its logits are noise, the same for the same seed."""

    def __init__(self, seed: int, *, likes: bytes = b"", bias: float = 3) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] + [text.encode() for text in _MERGES] + [_CONTROL, b""]
        self._tokens = {piece: token for token, piece in enumerate(self._pieces)}
        self._noise = np.random.default_rng(seed)
        self._likes = [token for token, piece in enumerate(self._pieces) if piece in likes and piece]
        self._bias = bias
        self.vocabulary_size = len(self._pieces)
        first = [piece[0] if piece else FirstBytes.NONE for piece in self._pieces]
        self.first_bytes = FirstBytes(np.array(first, dtype=np.int16), {byte: byte for byte in range(256)})

    def logits(self, _row: int) -> npt.NDArray[np.float32]:
        logits = self._noise.normal(size=self.vocabulary_size).astype(np.float32)
        logits[self._likes] += self._bias
        return logits

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def is_control(self, token: int) -> bool:
        return self._pieces[token] == _CONTROL

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        assert not parse_special
        data, tokens = text.encode(), []
        while data:
            size = max(size for size in range(1, 9) if data[:size] in self._tokens)
            tokens.append(self._tokens[data[:size]])
            data = data[size:]
        return tokens


def _answer(schema: dict[str, Any], model: RandomModel, *, max_tokens: int = 3000) -> PlannedAnswer:
    writer = plan(schema)
    assert writer is not None
    llama = cast("Llama", model)
    tokens = TextTokens(llama)
    assert tokens.are_exact
    picker = TokenPicker(llama, Sampling(), None)
    return PlannedAnswer(
        llama, picker, tokens, writer.start(), max_tokens=max_tokens, schema=validator(schema), guess=AnswerGuess()
    )


def _write(answer: PlannedAnswer) -> int:
    """To the end; gives the number of steps."""
    steps = 1
    while answer.next_tokens(0):
        steps += 1
    return steps


_VALUES = st.sampled_from(
    ["low", "lower", "high", "", 'a "quote"', "ä", 1, 10, 100, -1, 2.5, True, None, [1, 10], {"a": 1}]
)


def _integers(draw: st.DrawFn) -> dict[str, Any]:
    low, spread = draw(st.integers(-500, 500)), draw(st.integers(0, 2000))
    bounds = {"minimum": low, "maximum": low + spread}
    return {key: bounds[key] for key in draw(st.sets(st.sampled_from(sorted(bounds))))}


@st.composite
def _leaves(draw: st.DrawFn) -> dict[str, Any]:
    kinds = ["enum", "const", "distinct", "string", "pattern", "integer", "number", "boolean", "nullable"]
    kind = draw(st.sampled_from(kinds))
    if kind == "enum":
        return {"enum": draw(st.lists(_VALUES, min_size=1, max_size=6, unique_by=json.dumps))}
    if kind == "distinct":
        values = draw(st.lists(_VALUES, min_size=1, max_size=6, unique_by=json.dumps))
        low = draw(st.integers(0, len(values)))
        high = draw(st.sampled_from([{}, {"maxItems": low + draw(st.integers(0, 3))}]))
        return {"type": "array", "items": {"enum": values}, "uniqueItems": True, "minItems": low, **high}
    if kind == "const":
        return {"const": draw(_VALUES)}
    if kind == "string":
        low = draw(st.integers(0, 4))
        return {"type": "string", "minLength": low, "maxLength": low + draw(st.integers(0, 8))}
    if kind == "pattern":
        pattern = draw(st.sampled_from([r"^[A-Z]{2}-\d{2,4}$", "^(ab|cde)$", "x", r"^\S+$", "^[^ä]{0,3}$", "^€ü?$"]))
        return {"type": "string", "pattern": pattern, "maxLength": draw(st.integers(8, 12))}
    if kind == "nullable":
        return {"type": [draw(st.sampled_from(["string", "number", "integer", "boolean"])), "null"]}
    return {"type": kind, **(_integers(draw) if kind in ("integer", "number") else {})}


@st.composite
def _arrays(draw: st.DrawFn, items: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    low, more = draw(st.integers(0, 2)), draw(st.none() | st.integers(0, 3))
    high = {} if more is None else {"maxItems": low + more}
    return {"type": "array", "items": draw(items), "minItems": low, **high}


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(["a", "ab", "b", 'c"', "ä"]), max_size=4, unique=True))
    required = [key for key in keys if draw(st.booleans())]
    properties = {key: draw(values) for key in keys}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_SCHEMAS = _objects(
    st.recursive(
        _leaves(),
        lambda inner: (
            _arrays(inner)
            | _objects(inner)
            | st.lists(inner, min_size=1, max_size=3).map(lambda items: {"type": "array", "prefixItems": items})
            | inner.map(lambda schema: {"allOf": [schema]})
        ),
        max_leaves=5,
    )
)


@settings(deadline=None)
@given(_SCHEMAS, st.integers(0, 2**32), st.sampled_from([b"", b'",}]', b"aeA1 -[,"]))
def test_whatever_a_model_likes_its_answer_is_valid(schema: dict[str, Any], seed: int, likes: bytes) -> None:
    assert check_schema(schema) is None
    answer = _answer(schema, RandomModel(seed, likes=likes))

    _write(answer)

    assert answer.finish is Finish.SCHEMA
    answer.check()
    assert answer.text == answer.take_delta()
    assert json.dumps(json.loads(answer.text), ensure_ascii=False).count("\n") == 0


@pytest.mark.parametrize("max_tokens", range(200, 212))
def test_an_endless_list_of_signed_numbers_is_closed_in_time(max_tokens: int) -> None:
    numbers = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1}}
    schema = {"type": "object", "properties": {"x": numbers}, "required": ["x"], "additionalProperties": False}

    for seed in range(8):
        answer = _answer(schema, RandomModel(seed, likes=b"aeA1 -[,"), max_tokens=max_tokens)
        _write(answer)

        assert answer.finish is Finish.SCHEMA


@settings(deadline=None)
@given(_SCHEMAS, st.integers(0, 2**32))
def test_every_walk_of_a_plan_writes_json(schema: dict[str, Any], seed: int) -> None:
    chance, text, writer = random.Random(seed), "", plan(schema)
    assert writer is not None
    step: Step = writer.start()
    while not isinstance(step, End):
        if isinstance(step, Choice):
            assert len({option for option, _ in step.options}) == len(step.options) > 1
            written, later = chance.choice(step.options)
        elif isinstance(step, Literal):
            written, later = step.text, step.then
        else:
            is_begun = not isinstance(step.slot, NumberSlot) or step.slot.text.isdecimal()
            written, later = "" if is_begun else "1", step.then
        text, step = text + written, later()

    json.loads(text)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(60, 90))
def test_an_answer_that_comes_to_the_end_of_its_tokens_is_closed(seed: int, max_tokens: int) -> None:
    notes = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    properties = {"notes": notes, "more": {"type": "string"}, "n": {"type": "integer", "minimum": 1000}}
    schema = {"type": "object", "properties": properties, "required": ["notes", "n"]}
    answer = _answer(schema, RandomModel(seed, likes=b"abcdefgh0123456789[,", bias=9), max_tokens=max_tokens)

    _write(answer)

    assert answer.finish is Finish.SCHEMA, answer.text
    answer.check()
    assert answer.completion_tokens <= max_tokens


def test_forced_text_and_what_has_one_value_cost_no_step() -> None:
    properties = {"version": {"const": 1}, "unit": {"enum": ["mm/s"]}, "n": {"type": "integer", "enum": [3, "x"]}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    answer = _answer(schema, RandomModel(1))

    assert answer.tokens == []
    assert _write(answer) == 1
    assert answer.text == '{"version":1,"unit":"mm/s","n":3}'
    assert answer.completion_tokens > 20


def test_each_choice_costs_one_step_where_its_texts_begin_apart() -> None:
    properties = {
        "fault": {"enum": ["wear", "none", "leak"]},
        "severity": {"type": "integer", "minimum": 1, "maximum": 5},
        "stop": {"type": "boolean"},
        "note": {"type": ["null", "boolean"]},
    }
    schema = {"type": "object", "properties": properties, "required": ["fault", "severity", "stop"]}
    answer = _answer(schema, RandomModel(4, likes=b"}"))

    assert _write(answer) == 4
    assert json.loads(answer.text).keys() == {"fault", "severity", "stop"}


def test_a_control_token_is_no_content() -> None:
    class Ending(RandomModel):
        def logits(self, row: int) -> npt.NDArray[np.float32]:
            logits = super().logits(row)
            logits[-2:] = 99
            return logits

    answer = _answer(SCHEMA, Ending(1))
    _write(answer)

    answer.check()
    assert "im_end" not in answer.text


def _object(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], **more}


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        _object({"$ref": "#/$defs/x"}, **{"$defs": {"x": {"type": "string", "pattern": "^a+$"}}}),
        _object({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        _object({"oneOf": [{"type": "number"}, {"enum": ["none", None]}]}),
        _object({"type": "string", "enum": ["a", "bb"], "minLength": 2}),
        _object({"type": "integer", "multipleOf": 250}),
        _object({"type": ["object", "null"], "properties": {"b": {"type": "boolean"}}}),
        _object({"type": "array", "maxItems": 0}),
        {"type": "object", "properties": {}, "additionalProperties": False},
    ],
)
def test_schemas_that_have_a_plan(schema: dict[str, Any]) -> None:
    assert check_schema(schema) is None
    for seed in range(5):
        answer = _answer(schema, RandomModel(seed, likes=b'",}]'))
        _write(answer)
        answer.check()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        _object(True),
        _object({}),
        _object({"$ref": "#"}),
        _object({"type": "object", "additionalProperties": {"type": "string"}}),
        _object({"type": "array"}),
        _object({"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        _object({"type": "array", "items": {"enum": [1, 1.0]}, "uniqueItems": True}),
        _object({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 17}, "uniqueItems": True}),
        _object({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}),
        _object({"type": "array", "items": {"type": "boolean"}, "contains": {"const": True}}),
        _object({"type": "string", "pattern": r"^a(?=b)"}),
        _object({"type": "string", "pattern": "^a{3}$", "maxLength": 2}),
        _object({"type": "string", "not": {"const": "x"}}),
        _object({"type": "number", "multipleOf": 0.1}),
        _object({"type": "number", "minimum": 1e300}),
        _object({"type": "integer", "minimum": 0, "not": {"minimum": 0}}),
        _object({"anyOf": [{"type": "string"}, {"enum": ["a", None]}]}),
        _object({"anyOf": [{"type": "integer"}, {"type": "number"}]}),
        _object({"anyOf": [_object({"const": 1}), _object({"const": 2})]}),
        _object({"anyOf": [{"type": "null"}], "minimum": 1}),
        _object({"enum": ["a"], "minLength": 2}),
        _object({"type": "boolean"}, minProperties=2),
        _object({"type": "boolean"}, dependentRequired={"a": ["b"]}),
        _object({"type": "boolean"}, patternProperties={"^b": {}}),
        {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(100)}},
    ],
)
def test_schemas_that_are_left_to_the_grammar(schema: dict[str, Any]) -> None:
    assert plan(schema) is None


def test_a_list_of_values_is_not_searched_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes time with the square of its length: seconds for a schema of some long lists."""
    seen: list[Any] = []

    def noted(rules: Any) -> Any:
        seen.append(rules)
        return validator(rules)

    monkeypatch.setattr(schema_plan, "validator", noted)
    writer = plan({"type": "string", "enum": ["a", 5, "bb", "ccc"], "minLength": 2})
    assert seen == [{"type": "string", "minLength": 2}]
    assert writer is not None
    start = writer.start()
    assert isinstance(start, Choice)
    assert [text for text, _ in start.options] == ['"bb"', '"ccc"']
