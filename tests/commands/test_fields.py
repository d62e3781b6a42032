"""What is a well-formed command."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.commands.fields import (
    CancelFields,
    CommandFields,
    DrainFields,
    SwitchFields,
    fields_of,
    parse_command,
)
from edge_agent.core.codes import CommandError

NO_TIMES: tuple[Any, ...] = (-1, 3601, "5", True, [])
NO_IDS: tuple[Any, ...] = (1.5, True, None, [], {})


def test_a_long_payload_is_refused_unread() -> None:
    with pytest.raises(CommandError, match=r"should have at most 65536 bytes \(got 65537\)"):
        parse_command(b" " * 65537)


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
