"""docs/training.md and docs/teacher.md: rows are read as they say, and their figures are those of the source."""

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.evaluate.requests import read_tasks
from convert.learning import quality, recipe, report, runs, study, table, training_rows
from convert.learning.commands import TRAINING
from convert.learning.report import Baseline, ReadField, Suspect, TaskQuality, TeacherQuality, Training
from convert.learning.summary import print_training
from edge_agent.core.labelled import TIME_KEYS
from edge_agent.core.strict_json import encode
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.maths.fit import MIN_ROWS as MIN_CORRECTIONS
from edge_agent.models.bundle import open_model
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.docs.pages import commands, page, sample, samples, section


def read(folder: Path, name: str, text: str) -> list[tuple[float | None, dict[str, Any], Any]]:
    """The time, fields and answer of each row."""
    (folder / "config.toml").write_text(sample("training", "toml", "state_dir"), "utf-8")
    (folder / name).write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_rows, "MIN_ROWS", 3)
        found, _ = training_rows.read_training_rows([folder / name], read_tasks(folder / "config.toml"))
    return [(row.time, row.values, row.answer) for row in found]


def test_both_samples_are_the_same_rows(tmp_path: Path) -> None:
    as_csv = read(tmp_path, "rows.csv", sample("training", "csv", ",answer"))
    assert as_csv == read(tmp_path, "rows.jsonl", sample("training", "text", '"task"'))
    assert list(as_csv[0][1]) == ["vibration_mm_s", "bearing.temperature_c", "note"]


def test_the_road_without_labels_makes_a_bundle_that_watches(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(sample("training", "toml", "false_alarms"), "utf-8")
    header, *rows = sample("training", "csv", "oil_temp_c").splitlines()
    draw = random.Random(0)
    loads = [draw.random() for _ in range(60)]
    more = [
        f"2026-11-03T06:{at:02d}:00Z,{40 * load:.1f},{7 - load:.2f},{60 + 20 * load:.1f},auto"
        for at, load in enumerate(loads)
    ]
    (tmp_path / "week.csv").write_text("\n".join([header, *rows, *more]), "utf-8")
    first, *_ = [
        words for words in commands("training") if words.startswith("edge-convert train --tasks config.toml --unl")
    ]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(["bash", "-ec", first], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, timeout=60)
    assert open_model("default", tmp_path / "compressor-watch").answerer_of("compressor") == "student-compressor"


def test_the_rows_of_a_run_are_named_as_the_page_says(tmp_path: Path) -> None:
    lines = ["ts,machine,oil_temp_c", *(f"{at},IM{at % 4},40" for at in range(2, 13200))]
    (tmp_path / "week.csv").write_text("\n".join(lines), "utf-8")
    script = sample("training", "python", "import csv")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
    header, *named = (tmp_path / "faults.csv").read_text("utf-8").splitlines()
    assert header == "ts,machine,oil_temp_c,answer,group"
    # The time of each row is the number of its line.
    assert [int(row.split(",")[0]) for row in named] == [at for at in range(12996, 13121) if at % 4 == 3]
    assert named[0] == "12999,IM3,40,oil cooler,28 March"


def test_usual_answers_from_before_a_change_are_left_out_as_the_page_says(tmp_path: Path) -> None:
    rows = [
        {"ts": "2026-11-19T06:00:00Z", "answer": "usual"},
        {"ts": "2026-11-19T06:00:00Z", "answer": "oil cooler"},
        {"ts": "2026-11-20T06:00:00Z", "answer": "usual"},
        {"answer": "usual"},
    ]
    for name in ("found", "found-2", "state-2"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    subprocess.run([sys.executable, "-c", sample("training", "python", "-since")], cwd=tmp_path, check=True, timeout=60)
    for name in ("found", "found-2", "state-2"):
        kept = (tmp_path / f"{name}-since.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line) for line in kept] == rows[1:3]


# The board is this machine, where a training takes too long.
STAND_INS = """
edge-agent() { test "$1" = command || command edge-agent "$@" --config board.toml; }
edge-convert() { mkdir "$8"; }
scp() { test "$1" = -r || test -f "${1#*:}"; }
"""


def test_the_loop_leads_from_feedback_to_the_rows_of_the_next_training(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config := sample("training", "toml", "state_dir"), "utf-8")
    board = config.partition("[tasks.")[0] + sample("training", "toml", "# for the page")
    (tmp_path / "board.toml").write_text(board, "utf-8")
    row = json.loads(sample("training", "text", '"task"').splitlines()[0])
    (tmp_path / "rows.csv").write_text(sample("training", "csv", "answer"), "utf-8")
    store = Store(tmp_path / "state" / FILE, lambda _: None)
    store.start()
    for number in range(training_rows.MIN_ROWS):
        kept = KeptAnswer(
            id=str(number), reply_topic="r", wall_s=1.8e9 + number, scores={}, tokens=9, is_audit=False,
            input=encode(row["input"] | {"vibration_mm_s": number}), output=None, is_marked=True, label="Normal",
        )  # fmt: skip
        AnswerTable(store).keep("pump-state", "basis", kept)
    store.commit()
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    script = STAND_INS + "".join(samples("training", "sh", "The loop"))
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, timeout=60)
    store.stop(5.0)
    store.close()
    files = [tmp_path / "rows.csv", tmp_path / "press-04-2.jsonl"]
    found, _ = training_rows.read_training_rows(files, read_tasks(tmp_path / "config.toml"))
    assert len(found) == 3 + training_rows.MIN_ROWS
    assert (tmp_path / "pump-model-2").is_dir()


@pytest.mark.parametrize(
    "words",
    [
        f"at least {training_rows.MIN_ROWS}, and two different answers",
        f"A training needs {training_rows.MIN_ROWS}.",
        ", ".join(f"`{key}`" for key in TIME_KEYS[:-1]) + f" or `{TIME_KEYS[-1]}`",
        f"at least {table.MIN_NUMBER_SHARE:.0%}".replace("%", " %"),
        f"at most {table.BINS + 1}",
        f"without times, {study.MANY_ROWS:,} and more",
        f"another answer a score above {quality.SURE:g}, and theirs one below {quality.UNLIKELY:g}",
        f"at most {quality.MAX_SUSPECTS}, with file and line",
        f"each training has {TRAINING.parser().get_default('steps'):,} steps",
        f"at least {recipe.MIN_STEPS}",
        f"fewer than {report.FEW_ROWS} rows of a label",
        f"{runs.MIN_BLOCKS} to {runs.MAX_BLOCKS} blocks, {runs.BLOCK_LENGTH} times as long",
        f"at least {study.MIN_GROUPS} groups, and {report.FEW_ROWS} rows of each label",
    ],
)
def test_figures_are_those_of_the_source(words: str) -> None:
    assert words in " ".join(page("training").split())


def test_figures_of_a_teacher_are_those_of_the_source() -> None:
    words = " ".join(page("teacher").split())
    assert f"at least {MIN_CORRECTIONS} labelled rows of a task" in words
    assert f"{recipe.Recipe().labelled_weight:g} times as often" in words


def test_the_printed_lines_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^\| `([^`]+)` \|", section("training", "How right is it?"), flags=re.MULTILINE)
    assert len(shown) == 11
    for method in ("gradient boosting", "logistic regression"):
        print_training(trained(method), Path("pump-model"), is_signed=False)
    in_groups = trained("gradient boosting")
    task = replace(in_groups.tasks[0], suspects_by_group={"day 1": 1})
    print_training(replace(in_groups, tasks=(task,)), Path("pump-model"), is_signed=False)
    printed = capsys.readouterr().out
    assert not [part for line in shown for part in line.split("…") if part.strip() not in printed]


def test_the_lines_of_a_teacher_are_those_of_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^\| `([^`]+…)` \|", page("teacher"), flags=re.MULTILINE)
    assert len(shown) == 5
    teacher = TeacherQuality(lessons=100, is_corrected=True, judged=20, right=16, compared=20, agreed=18)
    for is_agreement in (False, True):
        found = trained("logistic regression")
        task = replace(found.tasks[0], is_agreement=is_agreement, teacher=teacher)
        print_training(replace(found, tasks=(task,)), Path("pump-model"), is_signed=False)
    printed = capsys.readouterr().out
    assert not [part for line in shown for part in line.split("…") if part.strip() not in printed]


def trained(method: str) -> Training:
    task = TaskQuality(
        name="pump-state", kind="classify", rows=100, judged=20, right=18, most_frequent=9,
        baseline=Baseline(name=method, right=17), unlike=0.02, unlike_by_label={"a": 0.02}, calibration_error=0.1,
        independent=9, is_useless=False, confusion={"a": {"a": 18}, "b": {"a": 2}}, groups_by_label={},
        suspects_total=1,
        suspects=(Suspect(where="rows.csv:2", answer="Normal", model_answer="Cavitation", score=0.99),),
        suspects_by_group={},
        fields=tuple(
            ReadField(name=name, low=low, high=low, missing=0.0, outliers={})
            for name, low in (("rms", 1.0), ("note", None))
        ),
    )  # fmt: skip
    return Training(
        name="pumps", version=1, licence=None, quantization="Q8_0", parameters=1, file_bytes=1,
        held_out="the newest 20 rows", recipe={"steps": 100}, tasks=(task,),
    )  # fmt: skip
