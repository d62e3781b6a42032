"""One training, and how right its model is on many other rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.evaluate.requests import read_tasks
from convert.learning.baseline import baseline_of
from convert.learning.evaluation import answers_of
from convert.learning.folds import Fold
from convert.learning.quality import Answered, score_error
from convert.learning.rows import LEAST_ROWS, Row, read_rows
from convert.learning.training import train_and_evaluate
from convert.quantize.recipe import Quantization
from rigs.plants.sources import Fields
from rigs.plants.unlike import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Shares of right answers. judged, interval: as the bundle states them. true, baseline: on the rows of test.

    score_error: the expected calibration error on the rows of test, of those that get a label.
    """

    judged: float
    interval: tuple[float, float]
    true: float
    baseline: float
    score_error: float
    parameters: int


def run_trial(name: str, source: Source, minutes: float, seed: int) -> Trial:
    """Trains on rows of a source as `edge-convert train` does."""
    with tempfile.TemporaryDirectory() as folder:
        rows, others = (_read(Path(folder), name, source.labels, fields) for fields in (source.train, source.test))
    trained = train_and_evaluate(rows, Quantization.Q8_0, minutes=minutes, seed=seed, progress=_ignore)
    [quality] = trained.tasks
    answers = answers_of(trained.model, others, Quantization.Q8_0, _ignore)
    baseline = baseline_of([Fold(rows, others)], name, trained.model.table)
    error = score_error([one for one in answers if not one.exceeds_limits])
    assert baseline is not None
    assert error is not None
    return Trial(
        judged=quality.accuracy,
        interval=quality.interval,
        true=sum(one.is_right and not one.exceeds_limits for one in answers) / len(others),
        baseline=baseline.right / len(others),
        score_error=error,
        parameters=trained.model.parameters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlikeTrial:
    """Shares of the ordinary rows of test: right ones, if none were taken for unlike training; ones that are.

    found: of each kind of unlike inputs, the share that is taken for unlike training.
    """

    right: float
    ordinary: float
    found: dict[str, float]


def run_unlike(name: str, source: Source, minutes: float, seed: int) -> UnlikeTrial:
    """Trains as `edge-convert train` does, and asks the model for inputs of all kinds."""
    kinds = list(source.unlike)
    inputs = [_as_rows(source.unlike[kind], source.labels) for kind in kinds]
    with tempfile.TemporaryDirectory() as folder:
        rows, *tests = (
            _read(Path(folder), name, source.labels, fields) for fields in (source.train, source.test, *inputs)
        )
    trained = train_and_evaluate(rows, Quantization.Q8_0, minutes=minutes, seed=seed, progress=_ignore)
    ordinary, *unlike = (answers_of(trained.model, test, Quantization.Q8_0, _ignore) for test in tests)
    return UnlikeTrial(
        right=sum(one.is_right for one in ordinary) / len(ordinary),
        ordinary=_share_unlike(ordinary),
        found={kind: _share_unlike(answers) for kind, answers in zip(kinds, unlike, strict=True)},
    )


def _as_rows(inputs: Sequence[Any], labels: Sequence[str]) -> list[Fields]:
    """With any answers, and as often as a file of rows needs."""
    repeated = [*inputs] * -(-LEAST_ROWS // len(inputs))
    return [{"input": one, "answer": labels[at % 2]} for at, one in enumerate(repeated)]


def _share_unlike(answers: Sequence[Answered]) -> float:
    return sum(one.exceeds_limits for one in answers) / len(answers)


def _ignore(_what: str, _share: float) -> None:
    """Progress that nobody looks at."""


def _read(folder: Path, task: str, labels: Sequence[str], fields: Sequence[Fields]) -> list[Row]:
    table = f'[tasks.{task}]\nkind = "classify"\nlabels = {json.dumps(labels)}\n'
    (folder / "config.toml").write_text(table, "utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in fields), "utf-8")
    return read_rows(folder / "rows.jsonl", read_tasks(folder / "config.toml"))
