"""A reasoning model: the demonstration model under a template that opens a thought, as DeepSeek-R1's does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.engine.llama import Llama
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.protocol import Finish, Partial, SchemaPlan
from tests.engine.runs import LABELS, SCHEMA, answer_all, finished, run

OPENS_A_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture
def engine(open_llama: Callable[..., LlamaEngine], monkeypatch: pytest.MonkeyPatch) -> LlamaEngine:
    monkeypatch.setattr(Llama, "chat_template", lambda _self: OPENS_A_THOUGHT)
    return open_llama()


def test_a_thought_is_closed_after_max_reasoning_tokens_and_the_answer_comes(engine: LlamaEngine) -> None:
    answer = finished(engine, run(1, "7 mm/s", max_tokens=60, max_reasoning_tokens=4))[1]

    assert answer.reasoning is not None
    assert answer.text
    assert "think>" not in answer.text + answer.reasoning
    forced = len(engine._intake._close_thought)
    assert answer.completion_tokens > 4 + forced


def test_a_thought_that_uses_up_max_tokens_leaves_no_answer(engine: LlamaEngine) -> None:
    answer = finished(engine, run(1, "7 mm/s", max_tokens=5))[1]

    assert (answer.finish, answer.text) == (Finish.LENGTH, "")
    assert answer.reasoning


def test_max_tokens_counts_the_forced_end_of_the_thought(engine: LlamaEngine) -> None:
    answer = finished(engine, run(1, "7 mm/s", max_tokens=6, max_reasoning_tokens=5))[1]

    assert (answer.finish, answer.text, answer.completion_tokens) == (Finish.LENGTH, "", 6)


def test_no_reasoning_tokens_is_no_thought(engine: LlamaEngine) -> None:
    answer = finished(engine, run(1, "7 mm/s", max_reasoning_tokens=0))[1]

    assert answer.reasoning is None
    assert answer.text


def test_only_the_answer_is_streamed(engine: LlamaEngine) -> None:
    events = answer_all(engine, run(1, "7 mm/s", max_tokens=60, max_reasoning_tokens=4, stream=True))

    answer = finished(engine, run(2, "7 mm/s", max_tokens=60, max_reasoning_tokens=4))[2]
    assert "".join(event.delta for event in events if isinstance(event, Partial)) == answer.text


def test_labels_and_extracts_have_no_thought(engine: LlamaEngine) -> None:
    answers = finished(engine, run(1, "7", LABELS), run(2, "7", SchemaPlan(schema=SCHEMA), max_tokens=80))

    assert answers[1].reasoning is None
    assert answers[2].reasoning is None
    assert answers[2].finish is Finish.SCHEMA
