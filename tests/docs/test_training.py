"""docs/training.md: its rows are read as it says, and its figures are those of the source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from convert.arguments import training_parser
from convert.evaluate.requests import read_tasks
from convert.printing import print_training
from convert.report.training import Baseline, LearningCurve, ReadField, Suspect, TaskQuality, Training
from convert.train import folds, quality, recipe, rows, table
from tests.docs.pages import page, sample, section


def read(folder: Path, name: str, text: str) -> list[tuple[float | None, dict[str, Any], Any]]:
    """Time, fields and answer of each row."""
    (folder / "config.toml").write_text(sample("training", "toml", "[tasks."), "utf-8")
    (folder / name).write_text(text, "utf-8")
    found = rows.read_rows(folder / name, read_tasks(folder / "config.toml"))
    return [(row.time, row.values, row.answer) for row in found]


def test_both_samples_are_the_same_rows(tmp_path: Path) -> None:
    header, *cells = sample("training", "csv", "answer").splitlines(keepends=True)
    as_csv = read(tmp_path, "rows.csv", header + "".join(cells) * 20)
    assert as_csv == read(tmp_path, "rows.jsonl", sample("training", "text", '"task"') * 20)
    assert list(as_csv[0][1]) == ["vibration_mm_s", "bearing.temperature_c", "note"]


@pytest.mark.parametrize(
    "words",
    [
        f"at least {rows.LEAST_ROWS}, and two different answers",
        ", ".join(f"`{key}`" for key in rows.TIME_KEYS[:-1]) + f" or `{rows.TIME_KEYS[-1]}`",
        f"at least {table.NUMBERS:.0%}".replace("%", " %"),
        f"at most {table.BINS + 1}",
        f"without times, {folds.MANY_ROWS} and more",
        f"another answer a score above {quality.SURE:g}, and theirs one below {quality.UNLIKELY:g}",
        f"at most {quality.MOST_SUSPECTS}, with file and line",
        f"each has its {recipe.MOST_STEPS} steps, and later where {recipe.LEAST_STEPS} take longer",
        f"`--minutes` for all trainings, {training_parser().get_default('minutes'):g} by default",
    ],
)
def test_figures_are_those_of_the_source(words: str) -> None:
    assert words in " ".join(page("training").split())


def test_the_printed_lines_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"^\| `([^`]+)` \|", section("training", "How right is it?"), flags=re.MULTILINE)
    assert len(shown) == 7
    for method in ("gradient boosting", "logistic regression"):
        print_training(trained(method), Path("pump-model"), is_signed=False, as_json=False)
    printed = capsys.readouterr().out
    assert not [part for line in shown for part in line.split("…") if part.strip() not in printed]


def trained(method: str) -> Training:
    task = TaskQuality(
        name="pump-state",
        kind="classify",
        rows=100,
        judged=20,
        right=18,
        most_frequent=9,
        baseline=Baseline(name=method, right=17),
        calibration_error=0.1,
        curve=LearningCurve(half=0.8, full=0.9, doubled=0.95),
        confusion={},
        suspects_total=1,
        suspects=(Suspect(where="rows.csv:2", answer="Normal", model_answer="Cavitation", score=0.99),),
        fields=(
            ReadField(name="rms", low=0.0, high=1.0, missing=0.0),
            ReadField(name="note", low=None, high=None, missing=0.0),
        ),
    )
    return Training(
        name="pumps",
        version=1,
        licence=None,
        quantization="Q8_0",
        parameters=1,
        file_bytes=1,
        held_out="the newest 20 rows",
        recipe={"steps": 100},
        tasks=(task,),
    )
