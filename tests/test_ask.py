from __future__ import annotations

from typing import Any

import pytest

from edge_agent.ask import input_of


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
        ("{not json", "{not json"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a":1,"a":2}', '{"a":1,"a":2}'),
    ],
)
def test_only_strict_objects_and_arrays_are_json_on_the_command_line(text: str, value: Any) -> None:
    assert input_of(text) == value
