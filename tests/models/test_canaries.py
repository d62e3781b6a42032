"""canaries.json: what is taken for one, and when an answer is the recorded one."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.pipe import Failed, Finish, Finished, LabelsPlan, SchemaPlan, TextPlan
from edge_agent.models.canaries import (
    MAX_BYTES,
    Canary,
    CanaryError,
    CanaryFile,
    Prompt,
    RecordedAnswer,
    Tolerances,
    decode,
    read_canaries,
    render_canaries,
)
from tests.helpers.support import finished

SCHEMA = {
    "type": "object",
    "properties": {"where": {"type": "string"}, "stop": {"type": ["boolean", "null"]}, "hours": {"type": "number"}},
    "required": ["where", "stop", "hours"],
}
CANARIES = CanaryFile(
    schema=1,
    tolerances=Tolerances(score=0.1, number=0.01),
    tasks={
        "state": ClassifyTask(kind="classify", system="Which?", template="{{ input.hz }} Hz", labels=("good", "bad")),
        "order": ExtractTask(kind="extract", schema=SCHEMA, max_tokens=50, temperature=0.7),
        "say": GenerateTask(kind="generate", max_tokens=16, temperature=0.7, max_reasoning_tokens=99),
    },
    canaries=(
        Canary(task="state", input={"hz": 50}, answer=RecordedAnswer(scores={"good": 0.9, "bad": 0.1})),
        Canary(task="order", input="Grüße", answer=RecordedAnswer(values={"where": "é", "stop": None, "hours": 200})),
        Canary(task="say", input="x", answer=RecordedAnswer(beginning="The valve"), prompt=Prompt(tokens=20, crc32=5)),
    ),
)
DOCUMENT: dict[str, Any] = json.loads(CANARIES.encode())


def changed(path: str, value: object) -> dict[str, Any]:
    """The document with another value at `canaries.0.task`, say; None removes it."""
    document: dict[str, Any] = deepcopy(DOCUMENT)
    place: Any = document
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def test_what_is_encoded_is_decoded_and_encoded_again_to_the_same_bytes() -> None:
    again = decode(CANARIES.encode())
    assert again.canaries == CANARIES.canaries
    assert again.encode() == CANARIES.encode()
    assert list(again.build_engine_request(1, 0).plan.schema["properties"]) == ["where", "stop", "hours"]  # type: ignore[union-attr]


def test_the_file_holds_what_of_a_task_decides_an_answer_and_nothing_else() -> None:
    assert DOCUMENT["tasks"]["order"] == {
        "kind": "extract", "system": None, "template": "{{ input }}", "max_tokens": 50, "schema": SCHEMA,
    }  # fmt: skip


def test_requests_are_those_of_the_tasks_without_a_thought() -> None:
    runs = [CANARIES.build_engine_request(index, 7 + index) for index in range(3)]
    assert [type(run.plan) for run in runs] == [LabelsPlan, SchemaPlan, TextPlan]
    assert [run.id for run in runs] == [7, 8, 9]
    assert [run.messages[-1].content for run in runs] == ["50 Hz", "Grüße", "x"]
    assert [run.max_reasoning_tokens for run in runs] == [0, 0, 0]
    assert {run.sampling.temperature for run in runs} == {0.0}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("schema", 2, "schema: should be 1 (got 2)"),
        ("schema", None, "schema: required, but missing"),
        (
            "tasks.say.more",
            1,
            "more: unknown key, should be one of kind, system, template, examples, examples_as, max_tokens, labels",
        ),
        ("tolerances.score", 1.5, "tolerances.score: should be less than or equal to 1 (got 1.5)"),
        ("tolerances", None, "tolerances: required, but missing"),
        ("canaries", [], "canaries: should have at least 1 item"),
        ("canaries", [DOCUMENT["canaries"][2]] * 101, "canaries: should have at most 100 items"),
        ("canaries.0.task", "stat", 'canaries[0].task: should be one of state, order, say (got "stat")'),
        ("canaries.0.input", {}, 'canaries[0].input: has no "hz"'),
        ("canaries.0.input", 5, "canaries[0].input"),
        (
            "canaries.0.answer",
            {},
            "canaries[0].answer: should hold scores, because its task is of the kind classify (got",
        ),
        ("canaries.0.answer", {"beginning": "x"}, "canaries[0].answer: should hold scores"),
        ("canaries.0.answer.scores.good", 2, "canaries[0].answer.scores.good: should be less than or equal to 1"),
        ("canaries.0.answer.scores", {"good": 0.5, "worse": 0.5}, "canaries[0].answer.scores: should have the labels"),
        ("canaries.1.answer.values", {}, "canaries[1].answer.values: should have at least 1 item"),
        ("canaries.2.answer.beginning", "", "canaries[2].answer.beginning: should have at least 1 character"),
        ("canaries.2.prompt.tokens", 0, "canaries[2].prompt.tokens: should be greater than or equal to 1"),
        ("canaries.2.prompt.crc32", 2**32, "canaries[2].prompt.crc32: should be less than 4294967296"),
        ("tasks.order.schema", "/etc/passwd", "tasks.order: schema should be an object"),
        ("tasks.order.schema", {"type": "array"}, "schema.type"),
        ("tasks.state.labels", ["one"], "labels: should have at least 2 items"),
        ("tasks.state.template", "{{ other }}", "the only variables are `input` and `topic`"),
        ("tasks", {}, "tasks: should have at least 1 item"),
    ],
)
def test_a_fault_is_named_with_its_field(path: str, value: object, told: str) -> None:
    with pytest.raises(CanaryError) as caught:
        decode(json.dumps(changed(path, value)).encode())
    assert str(caught.value).startswith("canaries.json: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b'{"schema":1,"schema":1}', b" " * (MAX_BYTES + 1), b"[" * 5000]
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(CanaryError, match=r"^canaries\.json"):
        decode(data)


def scored(**scores: float) -> Finished:
    return finished(1, finish=Finish.LABELS, text=None, scores=scores)


def written(value: object) -> Finished:
    return finished(1, finish=Finish.SCHEMA, text=json.dumps(value))


ORDER = {"where": "é", "stop": None, "hours": 200, "note": "whatever"}


@pytest.mark.parametrize(
    ("index", "event", "told"),
    [
        (0, scored(good=0.81, bad=0.19), None),
        (0, scored(good=0.79, bad=0.21), '"good" has 0.790 (recorded: 0.900 ± 0.1)'),
        (0, scored(good=float("nan"), bad=0.1), '"good" has nan'),
        (0, scored(good=0.9, worse=0.1), 'the labels are ["good", "worse"]'),
        (1, written(ORDER), None),
        (1, written(ORDER | {"where": "e\u0301", "hours": 198.5}), None),
        (1, written(ORDER | {"hours": 197}), '"hours" is 197 (recorded: 200)'),
        (1, written(ORDER | {"stop": False}), '"stop" is false (recorded: null)'),
        (1, written({"where": "é", "stop": None}), '"hours" is null (recorded: 200)'),
        (2, finished(1, text="The valve is shut.", prompt_crc32=5), None),
        (2, finished(1, text="The valve", prompt_tokens=21, prompt_crc32=5), "the prompt has 21 tokens (recorded: 20)"),
        (
            2,
            finished(1, text="The valve", prompt_crc32=6),
            "some of the prompt's 20 tokens, or of those that end an answer",
        ),
        (2, finished(1, text="The pump", prompt_crc32=5), 'the text is "The pump" (recorded beginning: "The valve")'),
        (2, Failed(id=1, code=Code.INTERNAL, message="no numbers"), "no answer: no numbers"),
    ],
)
def test_an_answer_is_the_recorded_one_within_the_tolerance(index: int, event: Finished, told: str | None) -> None:
    found = CANARIES.difference(index, event)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(f"canaries[{index}] ({CANARIES.canaries[index].task}): {told}")


def test_a_file_without_prompts_is_read_and_compares_none() -> None:
    found = decode(json.dumps(changed("canaries.2.prompt", None)).encode())
    assert found.canaries[2].prompt is None
    assert found.difference(2, finished(1, text="The valve", prompt_tokens=7, prompt_crc32=7)) is None
    assert b'"prompt"' not in found.encode()


def test_the_requests_of_a_file_are_rendered_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "canaries.json").write_bytes(CANARIES.encode())
    assert read_canaries(tmp_path / "canaries.json") == render_canaries(CANARIES)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% set ns = namespace(x='x') %}{% for a in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "128 MB of memory",
        ),
        ("{% for a in range(3999) %}{{ '€'.ljust(1000, '€') }}{% endfor %}", "should render to at most 8000000 bytes"),
    ],
)
def test_a_template_that_exceeds_the_bounds_refuses_the_file(tmp_path: Path, template: str, told: str) -> None:
    path = tmp_path / "canaries.json"
    path.write_text(json.dumps(changed("tasks.state.template", template)), "utf-8")
    with pytest.raises(CanaryError, match=told) as caught:
        read_canaries(path)
    assert str(caught.value).startswith("canaries.json: ")
