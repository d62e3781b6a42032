"""Reasoning models, with the demonstration's weights and the tokens and template of DeepSeek-R1-Distill-Qwen."""

from pathlib import Path

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.pipe import ChatMessage, Finish, Sampling, SchemaPlan
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.engine import r1_distill
from tests.engine.runs import LABELS, SCHEMA, OpenLlama, asking, failed, finished, run


@pytest.fixture(scope="session")
def r1_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return r1_distill.convert(checkpoint_folder(), tmp_path_factory.mktemp("r1"))


@pytest.fixture
def engine(open_llama: OpenLlama, r1_path: Path) -> LlamaEngine:
    return open_llama(model=r1_path)


def prompt(engine: LlamaEngine, *messages: ChatMessage) -> list[bytes]:
    """What the prompt's tokens stand for."""
    tokens = engine._builder.build(asking(messages)).prompt
    return [engine._llama.piece(token) for token in tokens]


def as_text(pieces: list[bytes]) -> str:
    return b"".join(pieces).decode()


def test_a_prompt_begins_with_one_bos_and_ends_in_an_open_thought(engine: LlamaEngine) -> None:
    found = prompt(engine, ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="7 mm/s"))
    assert found[0] == r1_distill.BOS.encode()
    assert as_text(found) == f"{r1_distill.BOS}Be brief.{r1_distill.USER}7 mm/s{r1_distill.ASSISTANT}<think>\n"
    for mark in (r1_distill.BOS, r1_distill.USER, r1_distill.ASSISTANT, "<think>"):
        assert found.count(mark.encode()) == 1, mark


def test_the_thoughts_of_earlier_answers_are_left_out(engine: LlamaEngine) -> None:
    found = as_text(
        prompt(
            engine,
            ChatMessage(role="user", content="a"),
            ChatMessage(role="assistant", content="<think>long</think>short"),
            ChatMessage(role="user", content="b"),
        )
    )

    assert "long" not in found
    assert f"{r1_distill.ASSISTANT}short{r1_distill.EOS}{r1_distill.USER}b" in found


def test_what_a_caller_writes_never_becomes_a_token_of_the_dialogue(engine: LlamaEngine) -> None:
    plain = prompt(engine, ChatMessage(role="user", content="x"))
    for text in (r1_distill.BOS, r1_distill.ASSISTANT, "</think>", "<think>", r1_distill.EOS):
        found = prompt(engine, ChatMessage(role="user", content=f"x{text}"))
        assert text in as_text(found)
        assert found.count(text.encode()) == plain.count(text.encode())


def test_a_thought_is_closed_after_max_reasoning_tokens_and_the_answer_comes(engine: LlamaEngine) -> None:
    answer = finished(engine, run(1, "7 mm/s", max_tokens=60, max_reasoning_tokens=4))[1]
    assert answer.reasoning is not None
    assert answer.text
    assert "think>" not in answer.text + answer.reasoning
    forced = len(engine._builder._close_thought)
    assert answer.completion_tokens > 4 + forced


def test_a_thought_that_uses_up_max_tokens_is_no_answer_and_says_what_to_change(engine: LlamaEngine) -> None:
    failure = failed(engine, run(1, "7 mm/s", max_tokens=5, max_reasoning_tokens=9))
    assert failure.code is Code.NO_VALID_OUTPUT
    assert failure.message == ("the thought took all of max_tokens (5): raise it, or lower max_reasoning_tokens (9)")


def test_half_of_the_tokens_remain_for_the_answer(engine: LlamaEngine) -> None:
    for max_tokens in (1, 5, 12, 60):
        answer = finished(engine, run(1, "7 mm/s", max_tokens=max_tokens, sampling=Sampling(seed=1)))[1]
        assert answer.text
        assert answer.completion_tokens <= max_tokens


def test_text_is_sampled_as_its_makers_recommend_unless_the_request_says_otherwise(engine: LlamaEngine) -> None:
    def texts(*sampling: Sampling, plan: SchemaPlan | None = None) -> set[str | None]:
        runs = [run(n, "7 mm/s", plan, max_tokens=60, sampling=one) for n, one in enumerate(sampling)]
        return {f"{answer.reasoning} {answer.text}" for answer in finished(engine, *runs).values()}

    seeds = range(6)
    recommended = [Sampling(temperature=0.6, top_p=0.95, seed=seed) for seed in seeds]
    default = texts(*(Sampling(seed=seed) for seed in seeds))
    assert default == texts(*recommended)
    assert len(default) > 1
    assert len(texts(*(Sampling(temperature=0.0, seed=seed) for seed in seeds))) == 1
    assert len(texts(*(Sampling(seed=seed) for seed in seeds), plan=SchemaPlan(schema=SCHEMA))) == 1


def test_labels_extracts_and_texts_without_reasoning_tokens_have_no_thought(engine: LlamaEngine) -> None:
    extract, text = run(2, "7", SchemaPlan(schema=SCHEMA), max_tokens=80), run(3, "7 mm/s", max_reasoning_tokens=0)
    answers = finished(engine, run(1, "7", LABELS), extract, text)
    assert {answer.reasoning for answer in answers.values()} == {None}
    assert answers[2].finish is Finish.SCHEMA
    assert answers[3].text
