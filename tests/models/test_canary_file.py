"""A bundle's canaries whose templates want all of the time or memory: they are refused, and nobody waits for long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.models.canaries import MAX_BYTES, CanaryError
from edge_agent.models.canary_file import Questions, read_questions
from edge_agent.requests.tasks import Task
from tests.models.test_canaries import CANARIES, changed


def written(folder: Path, data: bytes) -> Path:
    path = folder / "canaries.json"
    path.write_bytes(data)
    return path


def test_the_requests_are_those_of_the_file(tmp_path: Path) -> None:
    found = read_questions(written(tmp_path, CANARIES.encode()))

    assert found == Questions.of(CANARIES)
    assert [found.run(index, 7) for index in range(3)] == [CANARIES.run(index, 7) for index in range(3)]
    assert found.prefixes == tuple(Task(name, config).prefix() for name, config in CANARIES.tasks.items())
    assert found.canaries == CANARIES.canaries


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "2 s of CPU time"),
        (
            "{% set ns = namespace(x='x') %}{% for a in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "128 MB of memory",
        ),
        ("{% for a in range(3999) %}{{ '€'.ljust(1000, '€') }}{% endfor %}", "should ask at most 8000000 bytes"),
    ],
)
def test_a_template_that_exceeds_the_bounds_refuses_the_file(tmp_path: Path, template: str, told: str) -> None:
    path = written(tmp_path, json.dumps(changed("tasks.state.template", template)).encode())

    with pytest.raises(CanaryError, match=told) as caught:
        read_questions(path)

    assert str(caught.value).startswith("canaries.json: ")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CanaryError, match="at most"):
        read_questions(written(tmp_path, b" " * (MAX_BYTES + 1)))
