import json
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.pipe import ChatMessage, LabelsPlan, Sampling, SchemaPlan, TaskPrefix, TextPlan
from edge_agent.requests.tasks import Task, prefixes_of, with_built_in
from tests.helpers.support import TASKS, config


def task(name: str = "generate", text: str = TASKS) -> Task:
    return with_built_in(config(text).tasks)[name]


def refusal(one: Task, value: Any) -> str:
    with pytest.raises(Refusal) as caught:
        one.messages(value)
    assert caught.value.error.code is Code.BAD_FIELD
    return caught.value.error.message


def turns(one: Task, value: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in one.messages(value)]


def test_the_built_in_is_there_and_takes_the_defaults_of_its_table() -> None:
    assert set(with_built_in(config().tasks)) == {"generate"}
    one = task(text='[tasks.generate]\nkind = "generate"\nsystem = "Be brief."\nmax_tokens = 9\npriority = 2\n')
    assert one.build_engine_request(1, Envelope(input="x")).max_tokens == 9
    assert one.config.priority == 2
    assert turns(one, "x") == [("system", "Be brief."), ("user", "x")]


def test_objects_are_printed_as_compact_json_in_the_senders_order() -> None:
    assert turns(task("triage"), {"z": 1, "a": "ü"}) == [("user", '{"z":1,"a":"ü"}')]
    assert turns(task("triage"), [1, None]) == [("user", "[1,null]")]


def test_generate_alone_takes_messages() -> None:
    given = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": ""}]
    assert turns(task(), {"messages": given}) == [("user", "a"), ("assistant", "b"), ("user", "")]
    assert turns(task("urgent"), {"messages": []}) == [("user", '{"messages":[]}')]


def test_the_callers_system_turn_replaces_that_of_the_task() -> None:
    one = task(text='[tasks.generate]\nkind = "generate"\nsystem = "Be brief."\n')
    user = {"role": "user", "content": "x"}
    assert turns(one, {"messages": [user]}) == [("system", "Be brief."), ("user", "x")]
    given = {"messages": [{"role": "system", "content": "Be long."}, user]}
    assert turns(one, given) == [("system", "Be long."), ("user", "x")]


@pytest.mark.parametrize("value", [{}, [], {"vibration": 3}])
def test_a_reading_for_the_built_in_task_is_refused_with_what_it_takes(value: Any) -> None:
    message = refusal(task(), value)
    assert message.startswith('input: the built-in task `generate` takes text, or {"messages": ')
    assert message.endswith(f"(got {json.dumps(value)})")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": []}, "input.messages: should have at least 1 item (got [])"),
        ({"messages": "x"}, 'input.messages: should be a list (got "x")'),
        ({"messages": [{"content": "x"}]}, "input.messages[0].role: required, but missing"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "input.messages[0].role: should be 'system', 'user' or 'assistant' (got \"tool\")",
        ),
    ],
)
def test_bad_messages_are_named(value: Any, message: str) -> None:
    assert refusal(task(), value) == message


def test_the_plan_is_that_of_the_kind() -> None:
    envelope = Envelope.model_validate({"input": "x", "stream": True, "options": {"stop": ["."]}})
    assert task("triage").build_engine_request(1, envelope).plan == LabelsPlan(labels=("normal", "bearing fault"))
    # Labels are not written, so `max_tokens` does not say how long they take.
    assert task("triage").build_engine_request(1, Envelope(input="x", options=Options(max_tokens=9))).max_tokens == 0
    assert task().build_engine_request(1, envelope).plan == TextPlan(stop=(".",))
    plan = task("report").build_engine_request(1, envelope).plan
    assert isinstance(plan, SchemaPlan)
    assert plan.schema["required"] == ["part"]
    streams = [task(name).build_engine_request(1, envelope).stream for name in ("triage", "report", "generate")]
    assert streams == [False, False, True]


def test_options_become_sampling() -> None:
    run = task().build_engine_request(1, Envelope(input="x"))
    assert (run.max_tokens, run.sampling.temperature, run.max_reasoning_tokens) == (256, None, None)
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 7}
    options = {**sampling, "max_tokens": 5, "max_reasoning_tokens": 0}
    run = task().build_engine_request(4, Envelope.model_validate({"input": "x", "options": options}))
    assert (run.id, run.task, run.max_tokens, run.max_reasoning_tokens) == (4, "generate", 5, 0)
    assert run.sampling == Sampling(**sampling)  # type: ignore[arg-type]


def test_a_task_sets_options_and_a_request_overrides_them() -> None:
    options = 'temperature = 0.5\ntop_p = 0.9\nmax_reasoning_tokens = 9\nreasoning = "include"\n'
    one = task("t", f'[tasks.t]\nkind = "generate"\n{options}')
    run = one.build_engine_request(1, Envelope(input="x"))
    assert (run.sampling, run.max_reasoning_tokens) == (Sampling(temperature=0.5, top_p=0.9), 9)
    assert one.options(Options()).reasoning == "include"
    given = {"temperature": 0, "max_reasoning_tokens": 0, "reasoning": "drop"}
    run = one.build_engine_request(1, Envelope.model_validate({"input": "x", "options": given}))
    assert (run.sampling, run.max_reasoning_tokens) == (Sampling(temperature=0.0, top_p=0.9), 0)
    assert one.options(Options(reasoning="drop")).reasoning == "drop"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("generate", "temperature = 2.1"),
        ("generate", "top_p = 0"),
        ("generate", "max_reasoning_tokens = -1"),
        ("generate", 'reasoning = "maybe"'),
        ("classify", "temperature = 0.5"),
        ("classify", "top_scores = 0"),
    ],
)
def test_options_of_a_task_have_the_ranges_of_those_of_a_request(kind: str, line: str) -> None:
    labels = 'labels = ["a", "b"]\n' if kind == "classify" else ""
    with pytest.raises(ValidationError, match=line.partition(" ")[0]):
        config(f'[tasks.t]\nkind = "{kind}"\n{labels}{line}\n')


def test_a_disabled_task_is_not_there() -> None:
    text = '[tasks.generate]\nkind = "generate"\nenabled = false\n'
    assert set(with_built_in(config(text).tasks)) == set()
    reading = '[tasks.t]\nkind = "generate"\nenabled = false\nsubscribe = ["plant/+/x"]\n'
    assert config(reading).reading_filters == frozenset()


def test_the_prefix_is_the_text_that_no_request_changes() -> None:
    one = task("t", '[tasks.t]\nkind = "generate"\nsystem = "S"\ntemplate = "Hz: {{ input.hz }}!"\n')
    said = (ChatMessage(role="system", content="S"),)
    assert one.prefix() == TaskPrefix(task="t", definition=one.definition, messages=said, user_prefix="Hz: ")
    assert one.messages({"hz": 5})[-1].content.startswith(one.prefix().user_prefix)
    assert task().prefix() == TaskPrefix(task="generate", definition=task().definition, user_prefix="")


def test_a_task_with_its_own_model_gives_the_large_model_nothing_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(prefixes_of([task()])) == 1
    monkeypatch.setattr(GenerateTask, "has_own_model", True)
    assert prefixes_of([task()]) == ()


EXAMPLES = """
[[tasks.t.examples]]
input = {hz = 50}
answer = "good"
[[tasks.t.examples]]
input = {hz = 90}
answer = "bad"
"""
CLASSIFY = '[tasks.t]\nkind = "classify"\nlabels = ["good", "bad"]\ntemplate = "{{ input.hz }} Hz"\n'


def test_examples_are_turns_before_the_request() -> None:
    one = task("t", CLASSIFY + EXAMPLES)
    shown = [("user", "50 Hz"), ("assistant", "good"), ("user", "90 Hz"), ("assistant", "bad")]
    assert turns(one, {"hz": 60}) == [*shown, ("user", "60 Hz")]
    assert [(each.role, each.content) for each in one.prefix().messages] == shown


@pytest.mark.parametrize(("system", "begin"), [("", ""), ('system = "Sort."\n', "Sort.\n\n")])
def test_examples_may_stand_in_the_system_message(system: str, begin: str) -> None:
    one = task("t", CLASSIFY + 'examples_as = "system"\n' + system + EXAMPLES)
    listed = "Examples:\n\nInput: 50 Hz\nAnswer: good\n\nInput: 90 Hz\nAnswer: bad"
    assert turns(one, {"hz": 60}) == [("system", begin + listed), ("user", "60 Hz")]


def test_examples_of_objects_are_compact_json() -> None:
    text = '[tasks.t]\nkind = "extract"\nschema = {type = "object"}\nexamples = [{input = "x", answer = {a = 1}}]\n'
    assert turns(task("t", text), "y") == [("user", "x"), ("assistant", '{"a":1}'), ("user", "y")]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", 5),
        ("min_score = 0.5\n", 0),
        ('min_score = 0.5\nprior = "corrected"\n', 5),
        ('prior = "as-is"\n', 0),
        ('template = "{{ input.hz }} Hz"\n', 0),
        ('template = "{{ topic }}: {{ input }}"\n', 5),
    ],
)
def test_content_free_requests_are_asked_where_the_prior_is_corrected(text: str, asked: int) -> None:
    one = task("t", '[tasks.t]\nkind = "classify"\nlabels = ["good", "bad"]\n' + text)
    assert len(one.prefix().content_free) == asked


def test_a_definition_is_what_decides_an_answer() -> None:
    one = task("t", CLASSIFY)
    assert task("t", CLASSIFY + "priority = 1\ndeadline_ms = 5\n").definition == one.definition
    assert task("t", CLASSIFY + 'system = "Sort."\n').definition != one.definition
    assert task("t", CLASSIFY + EXAMPLES).definition != one.definition
