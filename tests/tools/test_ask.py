from __future__ import annotations

from typing import Any

import pytest

from edge_agent.core.strict_json import NotJsonError
from edge_agent.tools.ask import parse_input


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"hz": 1}', {"hz": 1}),
        ("[1, 2]", [1, 2]),
        ("hums loudly", "hums loudly"),
        ("42", "42"),
        ("null", "null"),
        ('"quoted"', '"quoted"'),
        ("", ""),
        (' \n{"hz": 1}', {"hz": 1}),
    ],
)
def test_only_objects_and_arrays_are_json_on_the_command_line(text: str, value: Any) -> None:
    assert parse_input(text) == value


@pytest.mark.parametrize("text", ["{not json", '{"a": NaN}', '{"a":1,"a":2}', "[pump 3] hums", ' {"hz": 1'])
def test_what_begins_as_an_object_or_array_must_be_one(text: str) -> None:
    with pytest.raises(NotJsonError):
        parse_input(text)
