"""The sharing, batching, safety and recovery that the model's engine has beyond the contract."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.core.codes import Code
from edge_agent.core.pipe import (
    Cancelled,
    EngineSettings,
    Event,
    Failed,
    LabelsPlan,
    Load,
    Sampling,
    SchemaPlan,
    TaskPrefix,
)
from edge_agent.engine.llama import Llama, LoadError, Piece
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.prompt.chat import Chat
from edge_agent.engine.prompt.chat_template import ChatTemplate
from edge_agent.engine.step.scheduler import Linger, StepCost, StepPolicy
from tests.engine.exact import ExactModel
from tests.engine.runs import (
    LABELS,
    PLANS,
    SCHEMA,
    TASK,
    OpenLlama,
    answer_all,
    asking,
    ends,
    finished,
    messages,
    run,
    system,
)
from tests.helpers.ggufs import STRING, changed_model


def test_the_task_s_prefix_is_decoded_before_the_first_request(open_llama: OpenLlama) -> None:
    engine = open_llama()
    prefix = engine._builder.chat.prefix(TASK)
    assert engine.progress().prompt_tokens_total == 0
    answer = finished(engine, run(1, "7 mm/s", LABELS))[1]
    assert len(prefix) - 1 <= answer.cached_tokens <= len(prefix)
    assert answer.prompt_tokens - answer.cached_tokens < 16


def test_text_of_other_callers_is_never_shared(open_llama: OpenLlama) -> None:
    engine = open_llama()
    first = finished(engine, run(1, "a secret reading of 7.3 mm/s", LABELS))[1]
    second = finished(engine, run(2, "a secret reading of 7.3 mm/s", LABELS))[2]
    assert second.cached_tokens == first.cached_tokens


def test_requests_in_one_batch_answer_as_they_do_alone(open_llama: OpenLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(number, f"pump {number} vibrates", PLANS[number % 3], max_tokens=60) for number in range(12)]
    wide, narrow = open_llama(tasks=(), max_active=6), open_llama(tasks=())
    for engine in (wide, narrow):
        ExactModel(engine._llama, monkeypatch)

    together = finished(wide, *runs)

    assert max(answer.batch for answer in together.values()) == 6
    for one in runs:
        alone = finished(narrow, one)[one.id]
        assert alone.batch == 1
        assert (together[one.id].text, together[one.id].scores) == (alone.text, alone.scores)


def test_a_step_waits_for_the_next_requests_of_those_whose_answers_it_follows(open_llama: OpenLlama) -> None:
    engine = open_llama()
    engine._scheduler.linger = Linger(share=1e6, way_s=60.0)
    together = [run(number, f"pump {number}", LABELS) for number in range(2)]
    assert all(answer.batch == 2 for answer in finished(engine, *together).values())
    engine.add(run(2, "pump 0 again", LABELS))
    assert engine.linger_s > 1
    engine.add(run(3, "pump 1 again", LABELS))
    assert engine.linger_s == 0


def test_labels_that_collide_score_as_their_tokens_decoded_one_by_one(open_llama: OpenLlama) -> None:
    engine = open_llama(tasks=())
    llama = engine._llama
    tree = engine._builder.tree(LABELS.labels)
    assert tree.branches, "these labels are meant to share their first tokens"
    prompt = engine._builder.build(asking(messages("noise at P-1"))).prompt

    def logits_after(path: tuple[int, ...]) -> Any:
        tokens = [*prompt, *path]
        llama.forget(0)
        start = llama.decode([Piece(0, 0, tokens, [len(tokens) - 1])], threads=1)[0]
        return tree.choice_logits(path, llama.logits(start + len(tokens) - 1)).copy()

    expected = tree.scores({path: logits_after(path) for path in tree._choices})
    llama.forget(0)

    assert finished(engine, run(1, "noise at P-1", LABELS))[1].scores == pytest.approx(expected, abs=0.01)


def test_labels_with_more_collisions_than_branches_are_scored_in_turns(open_llama: OpenLlama) -> None:
    labels = tuple(f"{a}{b} unit" for a in "abcdefghijklmnop" for b in ("1", "12", "123"))
    engine = open_llama()
    assert len(engine._builder.tree(labels).branches) > 8
    runs = [run(number, f"p{number}", LabelsPlan(labels=labels)) for number in range(3)]
    together = finished(engine, *runs)
    for one in runs:
        assert together[one.id].scores == pytest.approx(finished(engine, one)[one.id].scores, abs=0.02)


def test_sampling_follows_its_seed(open_llama: OpenLlama) -> None:
    engine = open_llama()
    warm = Sampling(temperature=3.0, top_p=0.95, top_k=50, min_p=0.01, seed=3)
    first = finished(engine, run(1, "write", sampling=warm))[1].text
    again = finished(engine, run(2, "write", sampling=warm))[2].text
    hot = [run(n, "write", sampling=Sampling(temperature=9.0, seed=n)) for n in range(10, 16)]
    others = {answer.text for answer in finished(engine, *hot).values()}
    assert first == again
    assert len(others) > 1


def test_messages_that_the_template_refuses_are_the_caller_s_mistake(open_llama: OpenLlama) -> None:
    engine = open_llama()
    chat = engine._builder.chat
    assert isinstance(chat, Chat)
    chat._template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    refused = engine.add(run(1, "x"))
    assert isinstance(refused, Failed)
    assert refused.code is Code.BAD_FIELD
    assert refused.message == "input.messages: the model's chat template does not take them: roles must alternate"


def test_a_request_that_needs_the_whole_context_gets_it_and_the_prefixes_come_back(open_llama: OpenLlama) -> None:
    tasks = tuple(
        TaskPrefix(task=f"t{n}", messages=system(f"Task {n}. " * 8), user_prefix="Reading: ") for n in range(4)
    )
    engine = open_llama(tasks=tasks, context_tokens=512)
    assert engine._prefixes.cells > 100
    prompt = len(engine._builder.build(asking(messages("big"))).prompt)

    big = run(1, "big", max_tokens=512 - prompt)
    small, again = (run(n, "x", LABELS, task="t1", messages=messages("x", tasks[1])) for n in (2, 3))
    engine.add(big)
    engine.step()
    assert engine._prefixes.cells == 0
    assert isinstance(engine.cancel(1), Cancelled)

    finished(engine, small)
    assert finished(engine, again)[3].cached_tokens > 20


def test_more_tasks_than_prefixes_fit_take_turns(open_llama: OpenLlama) -> None:
    tasks = tuple(
        TaskPrefix(task=f"t{n}", messages=system(f"{n} is the number of this task. " * 2), user_prefix="")
        for n in range(32)
    )
    engine = open_llama(tasks=tasks, context_tokens=2048)

    for number in (31, 30, 31):
        one = run(1, "x", LABELS, messages=messages("x", tasks[number]), task=f"t{number}")
        cached = [finished(engine, one)[1].cached_tokens for _ in range(2)]
        assert cached[1] > 10
    assert cached[0] > 10, "it is still there"


def test_prefixes_are_restored_from_disk(open_llama: OpenLlama, tmp_path: Path) -> None:
    kept_at: dict[str, Any] = {"state_dir": str(tmp_path), "sha256": "5ha"}
    answers = [finished(open_llama(**kept_at), run(1, "7 mm/s", LABELS))[1] for _ in range(2)]
    assert answers[0].cached_tokens > 0
    assert answers[1].scores == pytest.approx(answers[0].scores, abs=1e-6)

    (kept,) = (tmp_path / "prefixes").iterdir()
    before = kept.stat().st_mtime_ns
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    engine = open_llama(**kept_at)
    answer = finished(engine, run(1, "7 mm/s", LABELS))[1]

    assert answer.scores == pytest.approx(answers[0].scores, abs=1e-6), "a damaged file is not believed"
    assert kept.stat().st_mtime_ns > before, "and is written again"
    engine.set_tasks(())
    assert not kept.exists(), "no task has it any more"


def test_idle_rows_change_no_answer_and_leave_no_trace(open_llama: OpenLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(number, f"pump {number} vibrates", plan, max_tokens=40) for number, plan in enumerate(PLANS)]
    plain, engine = open_llama(tasks=()), open_llama(tasks=())
    for each in (plain, engine):
        ExactModel(each._llama, monkeypatch)
    costs = [StepCost(rows, 2, 1.0) for rows in range(1, 64)] + [StepCost(64, 2, 0.1)]
    costs[7] = StepCost(8, 2, 0.1)
    engine._scheduler.policy = StepPolicy(costs, threads=1, prefill_threads=2, batch_tokens=64, max_rows=64)
    assert (engine._policy.padded(3), engine._policy.padded(20)) == (8, 64)

    expected, answers = finished(plain, *runs), finished(engine, *runs)

    assert engine._llama._lengths[engine._idle_id] == 0
    for number, answer in answers.items():
        assert (answer.text, answer.scores) == (expected[number].text, expected[number].scores)


@pytest.mark.parametrize("first", [0, 1])
def test_large_requests_of_several_tasks_do_not_starve_each_other(open_llama: OpenLlama, first: int) -> None:
    tasks = [
        TaskPrefix(task=name, messages=system(text * 8), user_prefix="Reading: ")
        for name, text in (("a", "You sort the readings of pumps. "), ("b", "Other words about machines here. "))
    ]
    engine = open_llama(tasks=tuple(tasks), context_tokens=512, batch_tokens=32)
    for number in range(3):
        task = tasks[(number + first) % 2]
        told = engine.add(
            run(number, "pump 1", task=task.task, messages=messages("pump 1", task), max_tokens=512 - 180)
        )
        assert told is None

    events: list[Event] = []
    for _ in range(3 * 512):
        events += engine.step()

    assert ends(events).keys() == {0, 1, 2}


@pytest.mark.expects_warning
def test_a_logit_that_is_no_number_fails_the_request_and_the_next_is_answered(
    open_llama: OpenLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_llama()
    last = engine.ready(0.0).vocabulary - 1
    row = np.zeros(last + 1, dtype=np.float32)
    pointer = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    sampled = run(4, "d", sampling=Sampling(temperature=1.0))
    schema = run(3, "c", SchemaPlan(schema=SCHEMA))
    for wrong in (np.nan, np.inf, -np.inf):
        row[last] = wrong
        with monkeypatch.context() as patch:
            patch.setattr("edge_agent.engine.llama.llama_cpp.llama_get_logits_ith", lambda *_: pointer)
            found = ends(answer_all(engine, run(1, "a"), run(2, "b", LABELS), schema, sampled))
        told = {(event.code, event.message) for event in found.values() if isinstance(event, Failed)}
        assert told == {(Code.INTERNAL, f"the model's logit of token {last} is {wrong}, not a finite number")}
        assert len(found) == 4
    assert engine.ready(0.0).max_active == len(engine._request_ids)
    finished(engine, run(5, "a"), run(6, "b", LABELS))


def test_the_context_is_empty_again_after_every_kind_of_request(open_llama: OpenLlama) -> None:
    engine = open_llama()
    pinned = {prefix.seq_id for prefix in engine._prefixes._resident.values()}
    runs = [run(n, "x", plan, max_tokens=40) for n, plan in enumerate(PLANS)]
    finished(engine, *runs)
    held = {seq_id for seq_id, length in enumerate(engine._llama._lengths) if length}
    assert held == pinned


@pytest.mark.expects_warning
def test_a_broken_file_is_refused_with_its_reason(tmp_path: Path, model_path: str) -> None:
    path = tmp_path / "broken.gguf"
    sound = Path(model_path).read_bytes()
    for data, reason in (
        (b"GARBAGE" * 100, "should be a GGUF file"),
        (sound[:-1000], "ends at byte"),
        (sound[:-64] + b"\xff" * 64, "tensors with invalid data"),
        (changed_model({"tokenizer.ggml.pre": (STRING, "none of these")}), "unknown pre-tokenizer type"),
    ):
        path.write_bytes(data)
        with pytest.raises(LoadError, match=reason):
            LlamaEngine(Load(model_path=str(path), settings=EngineSettings()))


def test_more_sequences_than_the_library_knows_are_refused(model_path: str) -> None:
    with pytest.raises(LoadError, match="lower max_active"):
        Llama(model_path, context_tokens=256, batch_tokens=64, sequences=300)
