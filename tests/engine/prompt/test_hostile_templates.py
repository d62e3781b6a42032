"""A worker whose model carries a chat template that wants all of its time or memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.core.messages import Code
from edge_agent.core.protocol import ChatMessage, EngineSettings, Failed, Finished, Load, Run, TextPlan
from edge_agent.tools.demo.readings import checkpoint_folder
from edge_agent.worker.client import WorkerError, started

WriteModel = Callable[[str], Load]


@pytest.fixture
def write_model(model_path: str, tmp_path: Path) -> WriteModel:
    """The demonstration model with another template, which may not be longer than its own."""

    def write(template: str) -> Load:
        config = json.loads((checkpoint_folder() / "tokenizer_config.json").read_text("utf-8"))
        own = config["chat_template"].encode()
        assert len(template) <= len(own)
        data = Path(model_path).read_bytes()
        assert data.count(own) == 1
        path = tmp_path / "model.gguf"
        path.write_bytes(data.replace(own, template.encode().ljust(len(own))))
        return Load(model_path=str(path), settings=EngineSettings(threads=1, prefill_threads=1))

    return write


def question(text: str) -> Run:
    return Run(id=1, task="t", messages=(ChatMessage(role="user", content=text),), plan=TextPlan(), max_tokens=2)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1 s of CPU time"),
        ("{{ 'x'.ljust(10 ** 10) }}", "64 MB of memory"),
        ("{{ 'x'.ljust(10 ** 6) }}", "characters, at most 65538 are allowed here"),
        ("{% if %}", "line 1: Expected an expression"),
    ],
)
def test_a_model_whose_template_cannot_be_used_does_not_load(
    write_model: WriteModel, template: str, fault: str
) -> None:
    with started(write_model(template)) as worker, pytest.raises(WorkerError) as caught:
        worker.ready()
    assert "the model does not load: the model's chat template cannot be used: " in str(caught.value)
    assert fault in str(caught.value)


def test_a_template_that_one_message_makes_too_large_refuses_this_message(write_model: WriteModel) -> None:
    template = "{% if 'b' in messages[0].content %}{{ 'x'.ljust(10 ** 10) }}{% endif %}{{ messages[0].content }}"
    with started(write_model(template)) as worker:
        worker.ready()
        for _ in range(2):
            refused = worker.ask(question("bomb"))
            assert isinstance(refused, Failed)
            assert refused.code is Code.BAD_FIELD
            assert refused.message.endswith("does not take them: takes more than 64 MB of memory")
            assert isinstance(worker.ask(question("pump")), Finished)


def test_a_worker_that_cannot_interrupt_its_template_ends_and_tells_why(write_model: WriteModel) -> None:
    template = "{{ ('a'*9999999).rfind('ab'~'a'*999999) }}"
    with started(write_model(template)) as worker, pytest.raises(WorkerError, match="SIGVTALRM, its chat template"):
        worker.ready()
