"""A teacher of `edge-convert train`: what it is asked, how labelled rows correct it, what a student learns of it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.agent import ScoreMap, WorkerClient
from convert.errors import ConvertError
from convert.evaluate.requests import read_tasks
from convert.evaluate.worker import AdaptedModel
from convert.learning.study import Study
from convert.learning.teacher import Teacher, ask_teacher
from convert.learning.training_rows import Row, read_training_rows, read_unlabelled
from edge_agent.tools.demo.readings import held_out
from tests.convert.conversions import Cli, ignore_progress
from tests.convert.learning.test_training import TASKS
from tests.helpers.bundles import DEMO_TASKS, write_lines

REPORT = """
[tasks.report]
kind = "extract"
schema = { type = "object", properties = { stop = { type = "boolean" }, hall = { type = "integer" } } }
"""


def inputs(begin: int, end: int) -> list[dict[str, Any]]:
    return [{"input": {"rms": at % 10 + at / 1000}} for at in range(begin, end)]


def label(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"answer": "loud" if one["input"]["rms"] >= 5 else "calm"}


def read(
    folder: Path, labelled: Sequence[object], unlabelled: Sequence[object], tasks: str = TASKS
) -> tuple[list[Row], list[Row]]:
    (folder / "config.toml").write_text(tasks, "utf-8")
    known = read_tasks(folder / "config.toml")
    rows = read_training_rows([write_lines(folder / "rows.jsonl", *labelled)], known)[0] if labelled else []
    return rows, read_unlabelled([write_lines(folder / "inputs.jsonl", *unlabelled)], known, rows)


def biased(labelled: Sequence[Row], unlabelled: Sequence[Row]) -> Teacher:
    """A teacher that takes everything for loud, but what is calm for a little less so."""
    answers = {}
    for row in (*labelled, *unlabelled):
        loud = 0.9 if row.values["rms"] >= 5 else 0.8
        answers[row.task.name, row.text] = {"calm": 1 - loud, "loud": loud}
    return Teacher("0" * 64, unlabelled, answers, {"sound": ScoreMap.identity(("calm", "loud"))})


def test_rows_without_labels_come_once_and_never_from_labelled_ones(tmp_path: Path) -> None:
    known = [label({"input": {"note": "", "rms": one["input"]["rms"]}}) for one in inputs(0, 60)]
    again = [{"input": {"rms": str(one["input"]["rms"])}} for one in inputs(90, 100)]
    _, rows = read(tmp_path, known, [*inputs(40, 90), *again, *inputs(90, 120)])
    assert [row.text for row in rows] == [json.dumps(one["input"]).replace(" ", "") for one in inputs(60, 120)]


def test_rows_without_labels_may_be_csv(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TASKS, "utf-8")
    cells = "".join(f"{one['input']['rms']}\n" for one in inputs(0, 60))
    (tmp_path / "inputs.csv").write_text(f"rms\n{cells}", "utf-8")
    rows = read_unlabelled([tmp_path / "inputs.csv"], read_tasks(tmp_path / "config.toml"), [])
    assert [row.text for row in rows] == [row.text for row in read(tmp_path, [], inputs(0, 60))[1]]
    (tmp_path / "inputs.csv").write_text("rms,label\n5,loud\n", "utf-8")
    with pytest.raises(ConvertError, match=r"inputs.csv:2: answer: rows without labels have none"):
        read_unlabelled([tmp_path / "inputs.csv"], read_tasks(tmp_path / "config.toml"), [])


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (inputs(0, 60), r"inputs.jsonl: should have at least 50 different inputs .* \(got 0\)"),
        (inputs(60, 109), r"inputs.jsonl: should have at least 50 different inputs .* \(got 49\)"),
        ([label(inputs(0, 1)[0])], r'inputs.jsonl:1: answer: rows without labels have none; .*--labelled \(got "calm"'),
        (
            [{"task": "say", "input": "x"}],
            'inputs.jsonl:1: task: "say" is of the kind generate, whose answers are not judged',
        ),
    ],
)
def test_a_fault_of_a_row_without_label_names_it(tmp_path: Path, lines: list[dict[str, Any]], fault: str) -> None:
    tasks = f'{TASKS}[tasks.say]\nkind = "generate"\n'
    lines = [{"task": "sound"} | line for line in lines]
    with pytest.raises(ConvertError, match=fault):
        read(tmp_path, [{"task": "sound"} | label(one) for one in inputs(0, 60)], lines, tasks)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--labelled", "b", "--teacher", "t"], "--teacher requires --unlabelled"),
        ([], "--labelled is required, or --unlabelled"),
        (["--labelled", "b", "--work", "w"], "--work goes with --teacher"),
    ],
)
def test_a_teacher_and_rows_for_it_go_together(words: list[str], fault: str, cli: Cli) -> None:
    done = cli("train", "--tasks", "a", "--out", "c", *words)
    assert (done.returncode, fault in done.stderr) == (2, True)


def demo_rows(folder: Path, *more: object, tasks: Path = DEMO_TASKS) -> list[Row]:
    """Eight readings for each task of the demonstration. Too few for a training, they are soon answered."""
    asked = [
        {"task": task, "input": reading.payload}
        for task in ("machine-triage", "machine-diagnosis")
        for reading in held_out()[:8]
    ]
    lines = write_lines(folder / "inputs.jsonl", *asked, *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.learning.training_rows.MIN_ROWS", 8)
        return read_unlabelled([lines], read_tasks(tasks), [])


def ask(bundle: Path, unlabelled: Sequence[Row], work: Path) -> tuple[Teacher, list[str]]:
    return ask_teacher(AdaptedModel.from_path(bundle), [], unlabelled, work=work, progress=ignore_progress)


def test_a_teacher_gives_scores_and_objects_and_is_asked_once(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = demo_rows(tmp_path)
    teacher, warnings = ask(demo_bundle, rows, tmp_path / "work")
    assert not warnings
    lessons = teacher.answer(teacher.unlabelled)
    assert len(lessons) == len(rows)
    for row in lessons:
        assert row.chances is not None
        assert sum(row.chances.values()) == pytest.approx(1)
        assert max(row.chances, key=row.chances.__getitem__) == row.answer_text

    monkeypatch.setattr(WorkerClient, "ask_all", asked_nothing)
    again, _ = ask(demo_bundle, rows, tmp_path / "work")
    assert again == teacher


def asked_nothing(_client: WorkerClient, runs: Iterator[object], *, at_once: int) -> Iterator[object]:
    assert (list(runs), at_once) == ([], 4)
    return iter(())


def test_an_interruption_keeps_the_answers(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = demo_rows(tmp_path), list[int]()

    def stop(_what: str, share: float) -> None:
        if share >= 0.25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_teacher(AdaptedModel.from_path(demo_bundle), [], rows, work=tmp_path, progress=stop)
    ask_all = WorkerClient.ask_all

    def counted(client: WorkerClient, runs: Iterator[Any], *, at_once: int) -> Iterator[Any]:
        rest = list(runs)
        asked.append(len(rest))
        return ask_all(client, rest, at_once=at_once)

    monkeypatch.setattr(WorkerClient, "ask_all", counted)
    ask(demo_bundle, rows, tmp_path)
    assert asked == [4, 8]


def test_rows_without_an_answer_are_left_out_and_counted(demo_bundle: Path, tmp_path: Path) -> None:
    rows = demo_rows(tmp_path, {"task": "machine-triage", "input": "much " * 9000})
    teacher, [warning] = ask(demo_bundle, rows, tmp_path)
    assert len(teacher.unlabelled) == len(rows) - 1
    assert warning.startswith(f"the teacher does not answer 1 of 9 rows, the first: {tmp_path}/inputs.jsonl:17: ")


def test_a_teacher_without_any_answer_is_refused(demo_bundle: Path, tmp_path: Path) -> None:
    definitions = json.loads(DEMO_TASKS.read_text("utf-8"))
    definitions["machine-diagnosis"]["max_tokens"] = 3
    (tmp_path / "tasks.json").write_text(json.dumps(definitions))
    fault = r"answers no row of the task machine-diagnosis, the first: .*:9: max_tokens \(3\) ended the answer"
    with pytest.raises(ConvertError, match=fault):
        ask(demo_bundle, demo_rows(tmp_path, tasks=tmp_path / "tasks.json"), tmp_path)


def test_what_the_prompt_shows_is_not_asked(demo_bundle: Path, tmp_path: Path) -> None:
    shown = inputs(0, 1)[0]["input"]
    more = f"examples = [{{ input = {{ rms = {shown['rms']} }}, answer = 'calm' }}]\nprior = 'as-is'\n"
    _, rows = read(tmp_path, [], inputs(0, 60), TASKS + more)
    found, _ = ask_teacher_of_any(demo_bundle, rows, tmp_path)
    assert [row.text for row in found.unlabelled] == [row.text for row in rows[1:]]


def ask_teacher_of_any(bundle: Path, rows: Sequence[Row], work: Path) -> tuple[Teacher, list[str]]:
    """Asks the teacher about rows to which it may give one answer alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convert.learning.teacher._check_varied", lambda *_: None)
        return ask(bundle, rows, work)


def test_labelled_rows_correct_the_teacher(tmp_path: Path) -> None:
    labelled, unlabelled = read(tmp_path, [label(one) for one in inputs(0, 60)], inputs(60, 120))
    teacher = biased(labelled, unlabelled)
    assert {row.answer for row in teacher.answer(unlabelled)} == {"loud"}
    assert sum(one.is_right for one in teacher.judged_on(labelled)) == 30
    corrected = teacher.corrected_by(labelled)
    assert [row.answer for row in corrected.answer(unlabelled)] == [label(one)["answer"] for one in inputs(60, 120)]
    assert all(one.is_right for one in corrected.judged_on(labelled))
    assert teacher.corrected_by(labelled[:10]) == teacher


def test_lessons_do_not_correct_the_teacher(tmp_path: Path) -> None:
    _, unlabelled = read(tmp_path, [], inputs(0, 60))
    teacher = biased([], unlabelled)
    assert teacher.corrected_by(teacher.answer(unlabelled)) == teacher


def test_a_teacher_that_is_not_sure_is_not_right(tmp_path: Path) -> None:
    tasks = TASKS + "min_score = 0.85\n"
    labelled, unlabelled = read(tmp_path, [label(one) for one in inputs(0, 60)], inputs(60, 120), tasks)
    outputs = [one.output for one in biased(labelled, unlabelled).judged_on(labelled)]
    assert (outputs.count("loud"), outputs.count(None)) == (30, 30)


def test_a_study_holds_out_labelled_rows_and_a_part_of_the_lessons(tmp_path: Path) -> None:
    labelled, unlabelled = read(tmp_path, [label(one) for one in inputs(0, 100)], inputs(100, 200))
    study = Study.of(labelled, biased(labelled, unlabelled), 0)
    assert len(study.rows) == 200
    for fold in study.folds:
        taught = study.with_teacher_answers(fold)
        # The lessons that are held out are compared once.
        compared = 20 if fold is study.folds[0] else 0
        assert (len(taught.train), len(taught.held_out)) == (80 + 80, 20 + compared)
        assert not {row.text for row in taught.train} & {row.text for row in taught.held_out}
        # The answers are corrected by the map of the rows that the fold trains on.
        assert all(row.answer == ("loud" if row.values["rms"] >= 5 else "calm") for row in taught.train)


def test_its_quality_keeps_agreement_and_accuracy_apart(tmp_path: Path) -> None:
    labelled, unlabelled = read(tmp_path, [label(one) for one in inputs(0, 100)], inputs(100, 200))
    teacher = biased(labelled, unlabelled)
    study = Study.of(labelled, teacher, 0)
    held = study.with_teacher_answers(study.folds[0]).held_out
    answers = teacher.judged_on(held)
    assert len(study.judged("sound", answers)) == 20
    quality = study.teacher_quality("sound", answers)
    assert quality is not None
    assert (quality.lessons, quality.is_corrected, quality.judged, quality.right) == (100, True, 100, 100)
    # The uncorrected teacher is compared with itself, corrected.
    assert quality.compared == 20
    assert quality.agreed == sum(row.values["rms"] >= 5 for row in held if row.chances is not None)


def test_without_labelled_rows_the_lessons_are_judged(tmp_path: Path) -> None:
    lines = [{"task": "report", "input": f"hall {at}"} for at in range(60)]
    _, unlabelled = read(tmp_path, [], lines, TASKS + REPORT)
    answers = {(row.task.name, row.text): {"hall": at % 3, "stop": True} for at, row in enumerate(unlabelled)}
    study = Study.of([], Teacher("0" * 64, unlabelled, answers, {}), 0)
    assert study.rows[0].answer_text == '{"stop":true,"hall":0}'
    fold = study.with_teacher_answers(study.folds[0])
    assert (len(fold.train), len(fold.held_out)) == (48, 12)
    quality = study.teacher_quality("report", [])
    assert quality is not None
    assert (quality.lessons, quality.judged, quality.compared) == (60, 0, 0)


def test_a_teacher_with_one_answer_to_all_rows_is_refused(tmp_path: Path) -> None:
    from convert.learning.teacher import _check_varied  # noqa: PLC0415

    labelled, unlabelled = read(tmp_path, [label(one) for one in inputs(0, 60)], inputs(60, 120))
    teacher = biased(labelled, unlabelled)
    _check_varied(teacher, labelled)
    with pytest.raises(ConvertError, match="task sound: the teacher answers all rows with loud"):
        _check_varied(teacher, [])
