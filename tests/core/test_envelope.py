import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.envelope import BareInput, Envelope, parse_payload
from edge_agent.core.strict_json import MAX_JSON_DEPTH, NotJsonError, parse_json


def refusal(payload: bytes | str, content_type: str | None = None, *, is_reading: bool = False) -> Error:
    data = payload if isinstance(payload, bytes) else payload.encode()
    with pytest.raises(Refusal) as caught:
        parse_payload(data, content_type, is_reading=is_reading)
    return caught.value.error


def parsed(payload: Any, content_type: str | None = None) -> Envelope:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return parse_payload(text.encode(), content_type)


@pytest.mark.parametrize("text", ["42", "null", '"quoted"', "hums loudly", " 42", "\n", "a{b}", "\x0c{}", "\u00a0{}"])
def test_text_that_begins_with_no_bracket_is_the_input_as_sent(text: str) -> None:
    assert parsed(text).input == text


@pytest.mark.parametrize(
    "text", ['{"hz": 1}', ' \t\r\n{"hz": 1}', "\n [1]", '[{"input": "x"}]', '{"id":"a","priority":77}']
)
def test_objects_and_arrays_without_input_are_the_input_itself(text: str) -> None:
    assert parsed(text).input == json.loads(text)


def test_an_object_with_input_is_an_envelope() -> None:
    envelope = parsed({"input": {"hz": 1}, "id": "a", "reply_to": "r", "deadline_ms": 5, "priority": 0, "stream": True})
    assert envelope.input == {"hz": 1}
    assert (envelope.id, envelope.reply_to, envelope.deadline_ms) == ("a", "r", 5)
    assert (envelope.priority, envelope.stream) == (0, True)


@pytest.mark.parametrize("text", ['{"input": 5', '{"input": "x"}', "[1, NaN]", "{}"])
def test_content_type_text_is_never_parsed(text: str) -> None:
    assert parsed(text, "text/plain").input == text
    assert parsed(text, "Text/CSV; charset=utf-8").input == text


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_content_type_json_must_be_json(content_type: str) -> None:
    assert parsed({"input": "x"}, content_type).input == "x"
    assert refusal("hums", content_type).code is Code.BAD_JSON
    assert refusal("", content_type).code is Code.BAD_FIELD
    assert parsed("hums", "application/octet-stream").input == "hums"


@pytest.mark.parametrize("payload", [b"\xff", b'{"input":"\xc3"}', b"\xed\xa0\x80", b"hums \xe4", b"\xc0\xaf"])
def test_what_is_not_utf8_is_refused_with_the_place(payload: bytes) -> None:
    error = refusal(payload)
    assert error.code is Code.NOT_UTF8
    assert "at byte" in error.message
    assert refusal(payload, "text/plain").code is Code.NOT_UTF8


DEEP = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[NaN]", "NaN"),
        ("[1e999]", "1e999"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ('{"a":1,"a":1}', '"a" occurs twice'),
        ('{"a":1,"\\u0061":1}', '"a" occurs twice'),
        (r'["\ud800"]', "surrogate"),
        (r'{"\udfff":1}', "surrogate"),
        ("[" + DEEP + "]", f"deeper than {MAX_JSON_DEPTH}"),
        ('{"a":' * 100_000, f"deeper than {MAX_JSON_DEPTH}"),
        ("[" + "1," * 200_000 + "1]", "more than 200000 values"),
        ('[{"a":[]}' + ',{"a":[]}' * 70_000 + "]", "more than 200000 values"),
        ("{", "line 1 column 2"),
        ('{"a":1,}', "line 1"),
        ('{"a":1} x', "Extra data"),
        ("[01]", "line 1"),
        ('["a\nb"]', "control character"),
        ('["\\x41"]', "escape"),
    ],
)
def test_what_is_not_strict_json_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(NotJsonError) as caught:
        parse_json(text)
    assert reason in str(caught.value)
    if text[0] in "{[":
        error = refusal(text)
        assert error.code is Code.BAD_JSON
        assert error.message.startswith("payload: ")
        assert error.message.isprintable()


@pytest.mark.parametrize(
    "text", [DEEP, "[" + "9" * 300 + "]", r'["\ud83d\ude00"]', '{"a":{"a":1}}', "[1e308, -0.0, 1E-999]", '"\x7f"']
)
def test_what_is_strict_json_is_taken(text: str) -> None:
    assert parse_json(text) == json.loads(text)


@given(st.binary())
@settings(max_examples=50)
def test_any_payload_is_an_envelope_or_a_refusal(payload: bytes) -> None:
    for content_type in (None, "application/json", "text/plain"):
        with contextlib.suppress(Refusal):
            assert isinstance(parse_payload(payload, content_type).input, (str, dict, list))


@pytest.mark.parametrize("value", ["a", "x" * 128, "🦊" * 128, 0, -7, 10**200])
def test_an_id_is_a_short_string_or_an_integer(value: str | int) -> None:
    assert parsed({"input": "x", "id": value}).id == value


# tests/contract has one more value of each.
@pytest.mark.parametrize(
    ("field", "values", "allowed"),
    [
        ("id", ["x" * 129, 1.0, [], None], "string of 1 to 128 characters or an integer"),
        ("reply_to", [["a"]], "string"),
        ("deadline_ms", [5.0, True, []], "integer"),
        ("deadline_ms", [10**12], "less than or equal to 86400000"),
        ("priority", [10**30], "less than or equal to 9"),
        ("priority", [-1], "greater than or equal to 0"),
        ("priority", [1.5, False], "integer"),
        ("stream", [1, []], "boolean"),
        ("options", ["x"], "table of named values"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(field: str, values: list[Any], allowed: str) -> None:
    for value in values:
        error = refusal(json.dumps({"input": "x", field: value}))
        assert (error.code, error.message.startswith(f"{field}: should ")) == (Code.BAD_FIELD, True)
        assert allowed in error.message
        assert f"(got {json.dumps(value)[:40]}" in error.message


def test_unknown_envelope_keys_are_ignored() -> None:
    assert parsed({"input": "x", "sent_by": "me", "Priority": 77}) == Envelope(input="x")


def test_every_option_is_taken() -> None:
    given: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.1,
        "seed": 2**32 - 1,
    }
    given |= {"stop": ["a", "b"], "reasoning": "include", "max_reasoning_tokens": 0}
    options = parsed({"input": "x", "options": given}).options
    assert options.model_dump(mode="json") == given
    options = parsed({"input": "x", "options": {"stop": "END"}}).options
    assert (options.temperature, options.reasoning, options.max_tokens, options.stop) == (None, None, None, ("END",))


WRONG_OPTIONS: dict[str, list[Any]] = {
    "temprature: unknown key, should be one of max_tokens, temperature, top_p": [0.5],
    "max_tokens": [1.5, True, 10**9],
    "temperature": [-0.1],
    "top_p": [0, 1.1],
    "top_k": [-1, 1001],
    "min_p": [-0.1, 1.1],
    "seed": [-1, 2**32],
    "stop": [5, None, {}, "", [""], [1] * 50_000, ["a"] * 9, "x" * 257],
    "max_reasoning_tokens": [-1],
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_an_option_out_of_range_is_a_bad_field_and_never_clipped(option: str) -> None:
    for value in WRONG_OPTIONS[option]:
        error = refusal(json.dumps({"input": "x", "options": {option.partition(":")[0]: value}}))
        assert (error.code, error.message.startswith(f"options.{option}")) == (Code.BAD_FIELD, True)
        assert "should" in error.message
        assert "(got " in error.message


@pytest.mark.parametrize("value", [{"input": 5}, {"input": "x", "priority": 99}, [1], {}])
def test_all_of_a_bare_reading_is_the_input(value: Any) -> None:
    assert parse_payload(json.dumps(value).encode(), None, is_reading=True) == BareInput(input=value)
    assert parse_payload(b"42", None, is_reading=True).input == "42"
    assert refusal(b"{x", is_reading=True).code is Code.BAD_JSON
