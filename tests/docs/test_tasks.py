"""docs/tasks.md: its tasks are those of the demonstration, and its templates make what it says."""

import re
import tomllib

import pytest

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.estimate import EstimateTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.requests.templates import render
from edge_agent.tools.ask import parse_input
from edge_agent.tools.demo.readings import tasks
from tests.docs.pages import page, samples, section


def test_the_tasks_are_those_of_the_demonstration() -> None:
    shown = {name: task for text in samples("tasks", "toml") for name, task in tomllib.loads(text)["tasks"].items()}
    for name, task in tasks().items():
        assert task.items() <= shown[name].items()


_CELLS = r"^\| `(.*)` \| `(.*)` \| `(.*)` \|$"


@pytest.mark.parametrize(
    ("template", "reading", "message"), re.findall(_CELLS, section("tasks", "The prompt"), flags=re.MULTILINE)
)
def test_a_template_makes_the_message_beside_it(template: str, reading: str, message: str) -> None:
    assert render(template.replace("\\|", "|"), parse_input(reading)) == message


def test_every_key_of_a_task_is_named() -> None:
    keys = {
        field.alias or name
        for kind in (ClassifyTask, EstimateTask, ExtractTask, GenerateTask)
        for name, field in kind.model_fields.items()
    }
    assert not {key for key in keys - {"model"} if not re.search(rf"\b{key}\b", page("tasks"))}
