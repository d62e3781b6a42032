import json
from typing import Any

import pytest

from edge_agent.core.pipe import Finished, Sampling, SchemaPlan
from edge_agent.engine.answer.json_answer import AnswerGuess
from edge_agent.engine.step.cache_sequence import CacheSequence
from tests.engine.exact import ExactModel
from tests.engine.runs import SCHEMA, OpenLlama, answer_all, finished, run

PLAN = SchemaPlan(schema=SCHEMA)


@pytest.mark.parametrize(
    ("decided", "is_there", "tokens", "done", "outputs"),
    [
        ([5, 6], True, [1, 2, 5, 6, 7], 5, (1, 3, 4)),
        ([5, 8], False, [1, 2, 5, 8], 3, (3,)),
        ([9], False, [1, 2, 9], 2, (2,)),
        ([5], False, [1, 2, 5], 2, (2,)),
        ([5, 6, 7], False, [1, 2, 5, 6, 7], 4, (4,)),
        ([5, 6, 7, 8], False, [1, 2, 5, 6, 7, 8], 5, (5,)),
    ],
)
def test_what_was_guessed_is_kept_as_far_as_it_was_decided(
    decided: list[int], is_there: object, tokens: list[int], done: int, outputs: tuple[int, ...]
) -> None:
    stream = CacheSequence(0, [1, 2, 5, 6, 7], (1, 3, 4), decoded=5)
    assert stream.continue_with(decided) is is_there
    assert (stream.tokens, stream.decoded, stream.outputs[stream.outputs_read - 1 if is_there else 0 :]) == (
        tokens,
        done,
        outputs,
    )


def test_an_answer_like_the_last_two_takes_one_step(open_llama: OpenLlama) -> None:
    engine = open_llama()
    steps: list[int] = []
    texts: set[str | None] = set()
    for number in range(4):
        before = engine.progress()
        answer = finished(engine, run(number, "7 mm/s", PLAN, max_tokens=60))[number]
        steps.append(engine.progress().steps_total - before.steps_total)
        written = engine.progress().completion_tokens_total - before.completion_tokens_total
        texts.add(answer.text)
        assert written == answer.completion_tokens, "what is guessed counts as what is written"

    assert len(texts) == 1
    assert steps[0] == steps[1] > 1
    assert steps[2:] == [1, 1]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.5, seed=5)])
def test_guesses_change_no_answer(open_llama: OpenLlama, monkeypatch: pytest.MonkeyPatch, sampling: Sampling) -> None:
    inputs = [f"{value // 2} mm/s" for value in range(12)] + 4 * ["7 mm/s"]

    def answers() -> tuple[dict[int, str | None], int]:
        engine = open_llama(tasks=())
        ExactModel(engine._llama, monkeypatch)
        runs = [run(number, text, PLAN, max_tokens=60, sampling=sampling) for number, text in enumerate(inputs)]
        return {one.id: finished(engine, one)[one.id].text for one in runs}, engine.progress().steps_total

    guessed, steps = answers()
    monkeypatch.setattr(AnswerGuess, "learn", lambda *_: None)
    plain, more_steps = answers()

    assert guessed == plain
    assert len(set(plain.values())) > 1
    assert steps < more_steps


def test_guesses_hold_in_a_batch_and_across_steps(open_llama: OpenLlama) -> None:
    engine = open_llama(batch_tokens=16)
    runs: list[Any] = [run(number, "7 mm/s", PLAN, max_tokens=60) for number in range(8)]
    expected = finished(open_llama(), run(99, "7 mm/s", PLAN, max_tokens=60))[99].text

    texts = [event.text for event in answer_all(engine, *runs) if isinstance(event, Finished)]
    more = finished(engine, *(run(100 + number, "7 mm/s", PLAN, max_tokens=60) for number in range(8)))

    assert texts == 8 * [expected]
    assert {answer.text for answer in more.values()} == {expected}
    assert expected is not None
    assert json.loads(expected)
    assert not any(engine._llama._lengths[:4])
