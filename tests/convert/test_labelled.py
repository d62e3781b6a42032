"""Task accuracy: labelled examples through the agent's own task code, on the demonstration model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from convert.cli import main
from convert.errors import ConvertError
from convert.evaluate.labelled import is_right, measure_accuracy, read_labelled
from convert.evaluate.requests import read_tasks
from convert.evaluate.worker import Adapted
from convert.measure.cache import read_cached, write_cached
from convert.report.quality import TaskAccuracy
from edge_agent.tools.demo.readings import checkpoint_folder, held_out

TASKS = """
[tasks.state]
kind = "classify"
labels = ["normal", "défaut"]
template = "{{ input.vibration }} mm/s"
[tasks.report]
kind = "extract"
[tasks.report.schema]
type = "object"
required = ["fault", "stop", "where"]
additionalProperties = false
[tasks.report.schema.properties]
fault = { enum = ["none", "bearing"] }
stop = { type = "boolean" }
where = { type = "object", properties = { hall = { type = "integer" } } }
[tasks.say]
kind = "generate"
"""
DEMO_TASKS = Path(__file__).parents[2] / "edge_agent" / "tools" / "demo" / "tasks.json"
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
READINGS = 100


def write_tasks(folder: Path, text: str = TASKS) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def demo_examples(path: Path, count: int = READINGS) -> Path:
    """Label and diagnosis of the first held-out readings; the free text of `action` does not count."""
    lines: list[object] = []
    for reading in held_out()[:count]:
        judged = {name: reading.diagnosis[name] for name in ("fault", "severity", "stop")}
        lines.append({"task": "machine-triage", "input": reading.payload, "answer": reading.fault})
        lines.append({"task": "machine-diagnosis", "input": reading.payload, "answer": judged})
    return write_lines(path, *lines)


def run(*words: object) -> int:
    more = ["--no-canaries"] if {"--type", "--budget"} & {*words} else []
    try:
        return main([*map(str, words), *more])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else -1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"task": "state", "input": {"vibration": 1}}, "answer: required, but missing"),
        ({"task": "state", "input": {"vibration": 1}, "answer": "bad"}, 'should be one of normal, défaut (got "bad")'),
        ({"task": "state", "input": {"speed": 1}, "answer": "normal"}, 'input: has no "vibration"'),
        ({"task": "stat", "input": "x", "answer": ""}, "task: should be one of state, report, say, generate"),
        ({"task": "state", "input": 5, "answer": "normal"}, "input: should be a string, an object or an array (got 5)"),
        ({"task": "state", "answer": "normal"}, "input: required, but missing"),
        ({"task": "report", "input": "x", "answer": "none"}, "answer: should be an object with the fields that count"),
        ({"task": "report", "input": "x", "answer": {"fault": "nome"}}, "answer.fault: 'nome' is not one of"),
        ({"task": "report", "input": "x", "answer": {"where": {"hall": "A"}}}, "answer.where.hall: 'A' is not of type"),
        ({"task": "report", "input": "x", "answer": {"falt": "none"}}, "'falt' was unexpected"),
        ({"task": "say", "input": "x", "answer": "y"}, 'task: "say" is of the kind generate'),
        ("{", "not JSON: "),
        ("[1]", "should be an object with task and input (got [1])"),
        ('{"task": "say", "task": "say"}', 'the key "task" occurs twice'),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: object, told: str) -> None:
    good = {"task": "state", "input": {"vibration": 1}, "answer": "normal"}
    path = write_lines(tmp_path / "labelled.jsonl", good, "", line)
    with pytest.raises(ConvertError) as caught:
        read_labelled(path, read_tasks(write_tasks(tmp_path)))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert told in str(caught.value)


def test_other_keys_of_a_line_are_ignored_and_letters_are_composed(tmp_path: Path) -> None:
    line = {"task": "state", "input": {"vibration": "a\u2028b"}, "answer": "de\u0301faut", "shift": 3}
    path = write_lines(tmp_path / "labelled.jsonl", json.dumps(line, ensure_ascii=False))
    (example,) = read_labelled(path, read_tasks(write_tasks(tmp_path))).requests
    assert example.run(1).messages[-1].content == "a\u2028b mm/s"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "labelled.jsonl", {"task": "state", "input": {"vibration": 1}, "answer": "normal"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_labelled(path, read_tasks(write_tasks(tmp_path))).requests) == 1


def test_a_pipe_is_refused(tmp_path: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_lines(tmp_path / "good.jsonl", {"task": "state", "input": {"vibration": 1}, "answer": "normal"})
    tasks, pipe = write_tasks(tmp_path), tmp_path / "pipe"
    os.mkfifo(pipe)
    for config, labelled in ((pipe, good), (tasks, pipe)):
        words = ["evaluate", demo_bundle, "--against", demo_bundle, "--tasks", config, "--labelled", labelled]
        assert run(*words) == 1
        assert capsys.readouterr().err == f"edge-convert: {pipe}: not a regular file\n"


@pytest.mark.parametrize("name", ["nothing.jsonl", "empty.jsonl"])
def test_a_file_without_examples_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConvertError, match=name):
        read_labelled(tmp_path / name, read_tasks(write_tasks(tmp_path)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tasks.a]\nkind = 'classify'\nlabels = ['x']", "tasks.a.labels: should have at least 2 items"),
        ("[tasks.a]\nkind = 'guess'", "tasks.a.kind: should be one of classify, extract, generate"),
        ("[tasks.a]\nkind = 'generate'\nsistem = 'x'", "did you mean `system`"),
        ("[models.default]\npath = 'm'", "tasks: required, but missing"),
        ("[tasks", "is not TOML"),
    ],
)
def test_tasks_are_read_with_the_agents_own_care(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConvertError) as caught:
        read_tasks(write_tasks(tmp_path, text))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("output", "answer", "expected"),
    [
        ("normal", "normal", True),
        (None, "normal", False),
        ({"a": 1, "b": 2}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"b": 2}, {"a": None}, False),
        ({"a": {"x": [1, "é"]}}, {"a": {"x": [1, "e\u0301"]}}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, False),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ("{}", {"a": 1}, False),
    ],
)
def test_an_answer_is_right_if_all_listed_fields_are_equal(output: Any, answer: Any, expected: bool) -> None:  # noqa: FBT001
    assert is_right(output, answer) is expected


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def judge(bundle: Path, work: Path, folder: Path) -> dict[str, TaskAccuracy]:
    """By the checkpoint as BF16."""
    reference = work / "bf16"
    if not reference.exists():
        assert run(checkpoint_folder(), "--type", "bf16", "--out", reference) == 0
    examples = read_labelled(demo_examples(folder / "labelled.jsonl"), read_tasks(DEMO_TASKS))
    tasks = measure_accuracy(
        Adapted(bundle / "model.gguf"),
        Adapted(reference / "model.gguf"),
        "0" * 64,
        examples,
        work=work,
        progress=lambda *_: None,
    )
    return {task.name: task for task in tasks}


@pytest.mark.parametrize("words", [["--type", "q4_0"], ["--type", "iq4_nl"], ["--budget", "1.55MB"]])
def test_at_4_bits_the_demonstration_keeps_99_percent_of_its_task_accuracy(
    words: list[str], work: Path, converter_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--work", converter_work] if "--budget" in words else []
    assert run(checkpoint_folder(), *words, "--out", tmp_path / "b", *more) == 0
    tasks = judge(tmp_path / "b", work, tmp_path)
    capsys.readouterr()

    assert (tmp_path / "b" / "model.gguf").stat().st_size < 1.6e6
    for name, least in (("machine-triage", 0.97), ("machine-diagnosis", 0.95)):
        task = tasks[name]
        assert task.examples == READINGS
        assert task.reference_accuracy > least
        assert task.accuracy >= 0.99 * task.reference_accuracy


def test_an_unsure_or_incomplete_answer_is_wrong(work: Path, tmp_path: Path) -> None:
    definitions = json.loads(DEMO_TASKS.read_text("utf-8"))
    definitions["machine-triage"]["min_score"] = 1.0
    definitions["machine-diagnosis"]["max_tokens"] = 3
    (tmp_path / "tasks.json").write_text(json.dumps(definitions))
    examples = read_labelled(demo_examples(tmp_path / "labelled.jsonl", 4), read_tasks(tmp_path / "tasks.json"))
    assert run(checkpoint_folder(), "--type", "q8_0", "--out", tmp_path / "b") == 0
    model = tmp_path / "b" / "model.gguf"
    tasks = measure_accuracy(Adapted(model), Adapted(model), "1" * 64, examples, work=work, progress=lambda *_: None)

    assert [task.accuracy for task in tasks] == [0.0, 0.0]


def test_examples_that_only_one_model_answers_right_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint_folder(), "--type", "q8_0", "--out", tmp_path / "b") == 0
    capsys.readouterr()
    examples = read_labelled(demo_examples(tmp_path / "labelled.jsonl", 5), read_tasks(DEMO_TASKS))
    model = Adapted(tmp_path / "b" / "model.gguf")
    home = tmp_path / "home"

    def judged() -> list[tuple[float, float, int, int]]:
        tasks = measure_accuracy(model, model, "3" * 64, examples, work=home, progress=lambda *_: None)
        return [(task.accuracy, task.reference_accuracy, task.gained, task.lost) for task in tasks]

    assert judged() == [(1.0, 1.0, 0, 0)] * 2
    (kept,) = home.iterdir()
    of_reference = read_cached(kept)
    # Triage and diagnosis take turns.
    of_reference[0] = of_reference[2] = of_reference[3] = False
    write_cached(kept, of_reference)
    assert judged() == [(1.0, 0.6, 2, 0), (1.0, 0.8, 1, 0)]
    for damaged in ({"machine-triage": 5}, of_reference[1:]):
        write_cached(kept, damaged)
        assert judged() == [(1.0, 1.0, 0, 0)] * 2


def test_task_accuracy_is_in_the_report_and_printed_by_evaluate(
    converter_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = demo_examples(tmp_path / "labelled.jsonl", 6)
    words = ["--tasks", DEMO_TASKS, "--labelled", labelled, "--work", converter_work]
    converted = [checkpoint_folder(), "--budget", "1.9MB", "--out", tmp_path / "b", *words, "--canaries", labelled]
    assert main([str(word) for word in converted]) == 0
    assert "canaries.json" in json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))["files"]
    quality = json.loads((tmp_path / "b" / "quality.json").read_bytes())
    recorded = len(json.loads((tmp_path / "b" / "canaries.json").read_bytes())["canaries"])
    assert quality["bundle"]["canaries"] == recorded > 0
    assert f"canaries: {recorded}\n" in capsys.readouterr().out
    fields = ("name", "kind", "examples", "gained", "lost")
    assert [tuple(task[field] for field in fields) for task in quality["tasks"]] == [
        ("machine-triage", "classify", 6, 0, 0),
        ("machine-diagnosis", "extract", 6, 0, 0),
    ]
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
    assert manifest["quality"]["tasks"] == quality["tasks"]
    assert "Right answers, in brackets" in (tmp_path / "b" / "quality.html").read_text("utf-8")
    capsys.readouterr()
    assert run("evaluate", tmp_path / "b", "--against", checkpoint_folder(), *words) == 0
    captured = capsys.readouterr()
    assert "machine-triage    6 of 6 answers right, 100.0 % (61.0 to 100.0)\n" in captured.out
    compared = "the reference: 100.0 %, the difference 0.0 (−24.5 to +24.5) points, no measurable difference\n"
    assert compared in captured.out


def test_the_samples_of_the_readme_are_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sample,) = re.findall(r"^edge-convert (evaluate .* --labelled .*)$", README, flags=re.MULTILINE)
    (line,) = re.findall(r'`(\{"task":.*"answer".*?\})`', README)
    (config,) = re.findall(r"^```toml\n(.*?\[tasks.pump-triage\].*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_tasks(tmp_path, config)
    write_lines(tmp_path / "readings.jsonl", line)
    (tmp_path / "Qwen2.5-0.5B-Instruct").symlink_to(checkpoint_folder())
    assert run("Qwen2.5-0.5B-Instruct", "--type", "q8_0", "--out", "qwen2.5-0.5b") == 0
    assert run(*sample.split()) == 0
    assert "pump-triage" in capsys.readouterr().out
    canaries = re.findall(r"^edge-convert (.*--canaries.*)$", README, flags=re.MULTILINE)
    assert [main(words.split()) for words in canaries] == [0, 0]
    assert "answers as recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "b", "--against", "c", "--tasks", "t"],
        ["evaluate", "b", "--against", "c", "--labelled", "l"],
        ["c", "--out", "b", "--budget", "2MB", "--labelled", "l"],
        ["c", "--out", "b", "--type", "q8_0", "--tasks", "t", "--labelled", "l"],
    ],
)
def test_the_flags_go_together(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "--labelled" in capsys.readouterr().err


def test_a_model_that_cannot_run_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    examples = read_labelled(demo_examples(tmp_path / "labelled.jsonl", 1), read_tasks(DEMO_TASKS))
    model = tmp_path / "model.gguf"
    with pytest.raises(ConvertError, match=r"model\.gguf: should be a GGUF file"):
        measure_accuracy(Adapted(model), Adapted(model), "2" * 64, examples, work=work, progress=lambda *_: None)
