"""Task accuracy: labelled examples through the agent's own task code, on the demonstration model."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.errors import ConvertError
from convert.evaluate.canaries import read_canary_requests
from convert.evaluate.comparison import measure_accuracy
from convert.evaluate.requests import Requests, read_labelled, read_tasks
from convert.evaluate.worker import AdaptedModel
from convert.measure.cache import write_cached
from convert.report.quality import TaskAccuracy
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.requests.tasks import Task
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.conversions import Cli, run
from tests.docs.pages import page, sample
from tests.helpers.bundles import DEMO_TASKS, demo_examples, write_lines
from tests.helpers.processes import Ended

TASKS = """
[tasks.state]
kind = "classify"
labels = ["normal", "défaut"]
template = "{{ input.vibration }} mm/s"
"""


def write_tasks(folder: Path, text: str = TASKS) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_bad_line_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "labelled.csv").write_text("task,vibration,answer\nstate,1,normal\nstate,2,bad\n", "utf-8")
    with pytest.raises(ConvertError, match=r"/labelled\.csv:3: answer: should be one of normal"):
        read_labelled(tmp_path / "labelled.csv", read_tasks(write_tasks(tmp_path)))


@pytest.mark.parametrize("read", [read_labelled, read_canary_requests])
def test_rows_that_the_board_would_refuse_are_refused(
    tmp_path: Path, read: Callable[[Path, dict[str, Task]], Requests]
) -> None:
    tasks = read_tasks(write_tasks(tmp_path, TASKS + 'required = ["load", "motor.rpm"]\n'))
    row: dict[str, Any] = {"input": {"vibration": 1, "load": 2, "motor": {"rpm": 3}}, "answer": "normal"}
    good = write_lines(tmp_path / "good.jsonl", row)
    assert len(read(good, tasks).requests) == 1
    bad = write_lines(tmp_path / "bad.jsonl", row, *[row | {"input": {"vibration": 1, "load": None}}] * 25)
    with pytest.raises(ConvertError) as caught:
        read(bad, tasks)
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith(f"{bad}:2: input: should have load, motor.rpm, because of `tasks.state.required` (got ")
    assert last == "5 more rows without a required field"


def test_a_pipe_is_refused(tmp_path: Path, demo_bundle: Path, cli: Cli) -> None:
    good = write_lines(tmp_path / "good.jsonl", {"task": "state", "input": {"vibration": 1}, "answer": "normal"})
    tasks, pipe = write_tasks(tmp_path), tmp_path / "pipe"
    os.mkfifo(pipe)
    for config, labelled in ((pipe, good), (tasks, pipe)):
        words = ["evaluate", demo_bundle, "--against", demo_bundle, "--tasks", config, "--labelled", labelled]
        assert cli(*words) == Ended(1, "", f"edge-convert: {pipe}: not a regular file\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tasks.a]\nkind = 'classify'\nlabels = ['x']", "tasks.a.labels: should have at least 2 items"),
        ("[tasks", "is not TOML"),
    ],
)
def test_tasks_are_read_with_the_agents_own_care(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConvertError) as caught:
        read_tasks(write_tasks(tmp_path, text))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("output", "answer", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"b": 2}, {"a": None}, False),
        ({"a": {"x": [1, "é"]}}, {"a": {"x": [1, "e\u0301"]}}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        (None, {"a": 1}, False),
    ],
)
def test_an_answer_is_right_if_all_listed_fields_are_equal(output: Any, answer: Any, expected: bool) -> None:  # noqa: FBT001
    assert ExtractTask(kind="extract", schema={}).is_right(output, answer) is expected


def judge(model: Path, reference: Path, examples: Path, tasks: Path, work: Path) -> dict[str, TaskAccuracy]:
    labelled = read_labelled(examples, read_tasks(tasks))
    found = measure_accuracy(
        AdaptedModel(model / "model.gguf"),
        AdaptedModel(reference / "model.gguf"),
        labelled,
        work=work,
        progress=lambda *_: None,
    )
    return {task.name: task for task in found}


def test_at_4_bits_the_demonstration_keeps_99_percent_of_its_task_accuracy(demo_bundle: Path, tmp_path: Path) -> None:
    assert run(checkpoint_folder(), "--type", "iq4_nl", "--out", tmp_path / "b") == 0
    tasks = judge(tmp_path / "b", demo_bundle, demo_examples(tmp_path / "labelled.jsonl", 8), DEMO_TASKS, tmp_path)
    assert (tmp_path / "b" / "model.gguf").stat().st_size < 1.6e6
    for name in ("machine-triage", "machine-diagnosis"):
        task = tasks[name]
        assert task.examples == 8
        assert task.reference_accuracy >= 0.95
        assert task.accuracy >= 0.99 * task.reference_accuracy


def test_an_unsure_or_incomplete_answer_is_wrong(demo_bundle: Path, tmp_path: Path) -> None:
    definitions = json.loads(DEMO_TASKS.read_text("utf-8"))
    definitions["machine-triage"]["min_score"] = 1.0
    definitions["machine-diagnosis"]["max_tokens"] = 3
    (tmp_path / "tasks.json").write_text(json.dumps(definitions))
    examples = demo_examples(tmp_path / "labelled.jsonl", 1)
    tasks = judge(demo_bundle, demo_bundle, examples, tmp_path / "tasks.json", tmp_path)
    assert [task.accuracy for task in tasks.values()] == [0.0, 0.0]


def test_examples_that_only_one_model_gets_right_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_model = [True, True, False, True]
    monkeypatch.setattr("convert.evaluate.comparison._are_right", lambda *_: of_model)
    monkeypatch.setattr("convert.evaluate.worker.sha256_of", lambda _: "1" * 64)
    # Triage and diagnosis take turns.
    examples, home = demo_examples(tmp_path / "labelled.jsonl", 2), tmp_path / "home"
    assert [task.accuracy for task in judge(tmp_path, tmp_path, examples, DEMO_TASKS, home).values()] == [0.5, 1.0]
    (kept,) = home.iterdir()
    write_cached(kept, [False, True, True, False])
    found = judge(tmp_path, tmp_path, examples, DEMO_TASKS, home)
    assert [(task.accuracy, task.reference_accuracy, task.gained, task.lost) for task in found.values()] == [
        (0.5, 0.5, 1, 1),
        (1.0, 0.5, 1, 0),
    ]


@pytest.mark.usefixtures("few_texts")
def test_samples_of_the_documentation_are_accepted(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    models = page("models")
    (evaluation,) = re.findall(r"^edge-convert (evaluate .* --labelled .*)$", models, flags=re.MULTILINE)
    (line,) = re.findall(r'`(\{"task":.*"answer".*?\})`', models)
    config = sample("tasks", "toml", "[tasks.pump-triage]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_tasks(tmp_path, config)
    write_lines(tmp_path / "readings.jsonl", line)
    (tmp_path / "Qwen2.5-0.5B-Instruct").symlink_to(checkpoint_folder())
    assert run("Qwen2.5-0.5B-Instruct", "--type", "q8_0", "--out", "qwen2.5-0.5b") == 0
    assert "pump-triage" in cli(*evaluation.split()).stdout
    recording, asking = re.findall(r"^edge-convert (.*--canaries.*)$", models, flags=re.MULTILINE)
    assert run(*recording.split()) == 0
    assert "answers as recorded" in cli(*asking.split()).stdout


def test_a_model_that_cannot_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConvertError, match=r"model\.gguf: should be a GGUF file"):
        judge(tmp_path, tmp_path, demo_examples(tmp_path / "labelled.jsonl", 1), DEMO_TASKS, tmp_path)
