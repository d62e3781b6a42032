"""What is a well-formed command."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.commands.fields import (
    CancelFields,
    CommandError,
    CommandFields,
    DrainFields,
    SwitchFields,
    fields_of,
    parse_command,
)

NO_TIMES: tuple[Any, ...] = (-1, 3601, "5", True, [])
NO_IDS: tuple[Any, ...] = (1.5, True, None, [], {})


@pytest.mark.parametrize(
    ("payload", "fields"),
    [(b"", {}), (b"  \n", {}), (b"{}", {}), (b'{"id":7,"timeout_s":1.5}', {"id": 7, "timeout_s": 1.5})],
)
def test_a_command_is_an_object_or_empty(payload: bytes, fields: dict[str, Any]) -> None:
    assert parse_command(payload) == fields


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff", "not_utf8"),
        *((payload, "bad_json") for payload in (b"{x", b'{"a":1,"a":2}', b'{"a":NaN}', b"drain")),
        *((payload, "bad_field") for payload in (b"[]", b"5", b"null")),
        (b'{"id":"' + b"x" * 65528 + b'"}', "too_long"),
    ],
)
def test_a_bad_payload_is_refused_with_its_code(payload: bytes, code: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(payload)
    assert caught.value.code == code
    allowed = ("payload: should be ", "payload: should have at most 65536 bytes (got 65537")
    assert caught.value.message.startswith(allowed)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (DrainFields, {"timeout_s": 0}),
        (DrainFields, {"timeout_s": 1.5, "id": "x"}),
        (CancelFields, {"request_id": 7, "reply_to": "r"}),
        (CancelFields, {"request_id": "a", "id": [1], "ts": "", "nonce": "", "hmac": ""}),
        (SwitchFields, {"model": "default", "bundle": "pumps-2"}),
    ],
)
def test_good_fields_are_taken_as_given(kind: type[CommandFields], fields: dict[str, Any]) -> None:
    assert fields_of(kind, fields).model_dump(include=set(fields)) == fields


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        *((DrainFields, {"timeout_s": value}, "timeout_s: should ") for value in NO_TIMES),
        *(
            (CancelFields, {"request_id": value}, "request_id: should be a string or an integer (got ")
            for value in NO_IDS
        ),
        (CancelFields, {}, "request_id: required, but missing"),
        (CancelFields, {"request_id": "a", "replyto": "r"}, "replyto: unknown key, should be one of "),
        (SwitchFields, {"model": "other", "bundle": "a"}, "model: should be 'default'"),
        *(
            (SwitchFields, {"model": "default", "bundle": name}, "bundle: should be the name of a folder in models_dir")
            for name in ("", ".", "..", "a/b", "a\n")
        ),
    ],
)
def test_a_bad_field_is_named_with_what_is_allowed(
    kind: type[CommandFields], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandError) as caught:
        fields_of(kind, fields)
    assert caught.value.code == "bad_field"
    assert caught.value.message.startswith(message)
