"""What is a well-formed command."""

from typing import Any

import pytest

from edge_agent.commands.fields import (
    CancelFields,
    CommandFields,
    DrainFields,
    SwitchFields,
    parse_command,
    parse_fields,
)
from edge_agent.core.codes import CommandError


def test_a_long_payload_is_refused_unread() -> None:
    with pytest.raises(CommandError, match=r"should be at most 65536 bytes \(got 65537\)"):
        parse_command(b" " * 65537)


@pytest.mark.parametrize(
    ("kind", "name", "values", "message"),
    [
        (DrainFields, "timeout_s", [-1, 3601, "5", True, []], "timeout_s: should "),
        (CancelFields, "request_id", [1.5, True, None, []], "request_id: should be a string or an integer (got "),
        (CancelFields, "id", ["a"], "request_id: required, but missing"),
        (CancelFields, "replyto", ["r"], "replyto: unknown key, should be one of "),
        (SwitchFields, "model", ["other"], "model: should be 'default'"),
        (SwitchFields, "bundle", ["", ".", "..", "a/b", "a\n"], "bundle: should be the name of a folder in models_dir"),
    ],
)
def test_bad_fields_are_refused_by_name(kind: type[CommandFields], name: str, values: list[Any], message: str) -> None:
    needed = {CancelFields: {"request_id": "a"}, SwitchFields: {"model": "default", "bundle": "b"}}.get(kind, {})
    for value in values:
        with pytest.raises(CommandError) as caught:
            parse_fields(kind, {**({} if name == "id" else needed), name: value})
        assert (caught.value.code, caught.value.message.startswith(message)) == ("bad_field", True)
