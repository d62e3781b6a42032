"""One training, and how right its model is on many other rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.evaluate.requests import read_tasks
from convert.quantize.recipe import Quantization
from convert.train.baseline import baseline_of
from convert.train.evaluation import answers_of
from convert.train.folds import Fold
from convert.train.rows import Row, read_rows
from convert.train.training import train_and_evaluate
from rigs.plants.sources import PLANTS, Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Shares of right answers. judged, interval: as the bundle states them. true, baseline: on the rows of test."""

    judged: float
    interval: tuple[float, float]
    true: float
    baseline: float
    parameters: int


def run_trial(plant: str, train: Sequence[Fields], test: Sequence[Fields], minutes: float, seed: int) -> Trial:
    """Trains on rows of a plant as `edge-convert train` does."""
    with tempfile.TemporaryDirectory() as folder:
        rows, others = (_read(Path(folder), plant, fields) for fields in (train, test))
    trained = train_and_evaluate(rows, Quantization.Q8_0, minutes=minutes, seed=seed, progress=_ignore)
    [quality] = trained.tasks
    answers = answers_of(trained.model, others, Quantization.Q8_0, _ignore)
    baseline = baseline_of([Fold(rows, others)], plant, trained.model.table)
    assert baseline is not None
    return Trial(
        judged=quality.accuracy,
        interval=quality.interval,
        true=sum(one.is_right for one in answers) / len(others),
        baseline=baseline.right / len(others),
        parameters=trained.model.parameters,
    )


def _ignore(_what: str, _share: float) -> None:
    """Progress that nobody looks at."""


def _read(folder: Path, plant: str, fields: Sequence[Fields]) -> list[Row]:
    labels = json.dumps(PLANTS[plant].labels)
    (folder / "config.toml").write_text(f'[tasks.{plant}]\nkind = "classify"\nlabels = {labels}\n', "utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in fields), "utf-8")
    return read_rows(folder / "rows.jsonl", read_tasks(folder / "config.toml"))
