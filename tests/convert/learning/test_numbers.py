"""Answers that are numbers: their levels, their intervals, and what is said of them."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from convert.agent import NumberBins
from convert.errors import ConvertError
from convert.evaluate.requests import read_tasks
from convert.learning.doubts import read_as
from convert.learning.numbers import levels_of, number_quality, with_levels, with_number
from convert.learning.quality import AnsweredRow, task_quality
from convert.learning.report import Baseline, TaskQuality, Training, render_training
from convert.learning.study import folds_of
from convert.learning.summary import print_rows, print_training
from convert.learning.table import build_table
from convert.learning.training_rows import Row, read_training_rows, read_unlabelled

TASKS = '[tasks.hours]\nkind = "estimate"\nunit = "h"\nminimum = 0\n'


def rows_of(folder: Path, answers: list[float], *, tasks: str = TASKS, per_group: int = 0) -> list[Row]:
    (folder / "config.toml").write_text(tasks, "utf-8")
    of_rows = [{"input": {"rms": at}, "answer": answer} for at, answer in enumerate(answers)]
    if per_group:
        of_rows = [row | {"group": f"g{at // per_group}"} for at, row in enumerate(of_rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_rows), "utf-8")
    return read_training_rows([folder / "rows.jsonl"], read_tasks(folder / "config.toml"))[0]


def answered(folder: Path, spread: float, *, count: int = 1000, per_group: int = 0) -> list[AnsweredRow]:
    """Answers of a model that takes the standard deviation of its errors for 10, whatever it is."""
    draw = np.random.default_rng(0)
    centres = draw.uniform(60, 140, count)
    answers = (centres + draw.normal(0, spread, count)).clip(0, 200).round(3)
    edges = np.linspace(0, 200, 81)
    found = []
    for row, centre in zip(rows_of(folder, answers.tolist(), per_group=per_group), centres, strict=True):
        weights = np.exp(-(((edges[:-1] + 1.25 - centre) / 10) ** 2) / 2)
        scores = NumberBins(edges=tuple(edges.tolist())).corrected((weights / weights.sum()).tolist())
        found.append(AnsweredRow(row, float(centre), scores))
    return found


@pytest.mark.parametrize("spread", [6, 10, 25])
def test_intervals_hold_their_share_however_sure_the_model_is(tmp_path: Path, spread: float) -> None:
    answers = answered(tmp_path, spread)
    quality = number_quality([one.row for one in answers], with_levels(answers))
    assert quality.holds == pytest.approx(0.8, abs=0.03)
    assert quality.holds_interval[0] < quality.holds < quality.holds_interval[1]
    # Of a normal distribution 80 % lie within 1.28 standard deviations, and the mean distance is 0.80 of them.
    assert quality.width == pytest.approx(2.56 * spread, rel=0.2)
    assert quality.mean_error == pytest.approx(0.8 * spread, rel=0.1)
    assert quality.constant_error > quality.mean_error


def test_rows_of_a_group_take_the_levels_of_other_groups_and_say_less(tmp_path: Path) -> None:
    single = with_levels(answered(tmp_path, 10, count=200))
    grouped = with_levels(answered(tmp_path, 10, count=200, per_group=20))
    qualities = [number_quality([one.row for one in answers], answers) for answers in (single, grouped)]
    assert len({one.row.group for one in grouped}) == 10
    (low, high), (lower, higher) = (quality.holds_interval for quality in qualities)
    assert higher - lower > high - low


def test_the_range_of_the_answers_is_printed_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read, _ = read_as(rows_of(tmp_path, [0.5 + at for at in range(60)]))
    print_rows(read)
    assert capsys.readouterr().out.splitlines()[0] == "hours: 60 rows: answers from 0.5 to 59.5"


def test_levels_rise_where_many_answers_are_the_least(tmp_path: Path) -> None:
    scores = {"0.0..1.0": 0.5, "1.0..2.0": 0.5}
    rows = rows_of(tmp_path, [0.0] * 90 + [2.0] * 10)
    levels = levels_of([AnsweredRow(row, 0.0, scores) for row in rows])
    assert all(low < high for low, high in pairwise(levels))
    assert NumberBins(edges=(0.0, 1.0, 2.0), levels=levels).corrected([0.5, 0.5])["0.0..1.0"] == pytest.approx(
        0.9, abs=0.02
    )


def test_bins_have_equally_many_rows_or_one_answer_each(tmp_path: Path) -> None:
    def edges(answers: list[float]) -> tuple[float, ...]:
        number = build_table(rows_of(tmp_path, answers)).tasks["hours"].number
        assert number is not None
        return number.edges

    many = edges([float(at**2) for at in range(320)])
    assert (len(many), many[0], many[-1]) == (33, 0, 319**2)
    assert many[16] == pytest.approx(159.5**2, rel=0.01)
    assert edges([1.0, 2.0, 4.0] * 20) == (0.5, 1.5, 3, 5)
    assert edges([0.0] * 199 + [8.0]) == (-4, 4, 12)
    with pytest.raises(ConvertError, match="answers from 1 to 1 are too near one another"):
        edges([1.0, math.nextafter(1.0, 2.0)] * 30)


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([-1.0] * 50, r"answer: should be a number at least 0 \(got -1.0\)"),
        ([1e308] * 50, r"answer: should be a number from -1e\+100 to 1e\+100 \(got 1e\+308\)"),
        ([7.0] * 50, "task hours should have at least two different answers"),
    ],
)
def test_a_fault_of_the_answers_is_named(tmp_path: Path, answers: list[float], fault: str) -> None:
    with pytest.raises(ConvertError, match=fault):
        rows_of(tmp_path, answers)


def test_no_teacher_answers_with_a_number(tmp_path: Path) -> None:
    rows_of(tmp_path, [1.0, 2.0] * 30)
    (tmp_path / "inputs.jsonl").write_text('{"input": {"rms": 1}}\n', "utf-8")
    with pytest.raises(ConvertError, match="is of the kind estimate, and no teacher answers with a number"):
        read_unlabelled([tmp_path / "inputs.jsonl"], read_tasks(tmp_path / "config.toml"), [])


def test_numbers_are_all_held_out_because_intervals_need_many(tmp_path: Path) -> None:
    folds, words = folds_of(rows_of(tmp_path, [at / 7 for at in range(1000)]), 0)
    assert len(folds) == 5
    assert words == "all rows, each by a model that has not seen its part of 20 %"


def quality_of(folder: Path) -> TaskQuality:
    answers = with_levels(answered(folder, 10))
    rows = [one.row for one in answers]
    baseline = Baseline(name="gradient boosting", right=800, mean_error=7.77)
    quality = task_quality(rows, build_table(rows), answers, baseline)
    return with_number(quality, number_quality(rows, answers))


def test_the_page_and_the_console_tell_the_mean_error_and_no_share_of_right_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = quality_of(tmp_path)
    assert not quality.is_useless
    assert not quality.suspects
    training = Training(
        name="plant", version=1, licence=None, quantization="Q8_0", parameters=9, file_bytes=9, held_out="all rows",
        recipe={"steps": 200}, tasks=(quality,),
    )  # fmt: skip
    print_training(training, tmp_path, is_signed=False)
    printed, html = capsys.readouterr().out, render_training(training)
    for text in (printed, html):
        assert "7.77 h" in text
        assert "gradient boosting" in text.lower()
        assert "% right" not in text
    assert "hours: mean error 8." in printed
    assert "off by at most 20 % of the true number: " in printed
    assert "intervals at 80 %: hold the true number in 8" in printed
    document = json.loads(training.encode())["tasks"][0]
    assert document["number"]["unit"] == "h"
    assert document["baseline"]["mean_error"] == 7.77


def test_a_model_that_is_no_nearer_than_the_median_is_useless(tmp_path: Path) -> None:
    answers = answered(tmp_path, 10)
    rows = [one.row for one in answers]
    worse = [replace(one, output=float(200 - one.output)) for one in answers]
    quality = task_quality(rows, build_table(rows), worse, None)
    assert with_number(quality, number_quality(rows, worse)).is_useless
