"""What the commands that train have in common: rows as `edge-convert train` reads them, and models that learn them."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.evaluate.requests import read_tasks
from convert.learning.quality import AnsweredRow, with_limits
from convert.learning.recipe import Recipe
from convert.learning.training_rows import Row, read_training_rows
from convert.quantize.recipe import Quantization

if TYPE_CHECKING:
    from convert.learning.training import Result


def classify_table(labels: Sequence[str]) -> str:
    """The configuration of a task of the kind `classify`."""
    return f'[tasks.state]\nkind = "classify"\nlabels = {json.dumps(list(labels))}\n'


def read_rows(rows: Iterable[Mapping[str, Any]], table: str) -> list[Row]:
    """The rows of the task that the table configures."""
    with tempfile.TemporaryDirectory() as name:
        tasks, file = Path(name, "tasks.toml"), Path(name, "rows.jsonl")
        tasks.write_text(table, "utf-8")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return read_training_rows([file], read_tasks(tasks))[0]


def train(rows: Sequence[Row], recipe: Recipe) -> "Result":
    from convert.learning.training import TrainingJob, train_and_evaluate  # noqa: PLC0415 - needs PyTorch

    job = TrainingJob(
        rows=rows, quantization=Quantization.Q8_0, recipe=recipe, name="rig", version=1, expires=None, licence=None,
        sign=None,
    )  # fmt: skip
    return train_and_evaluate(job, _ignore_progress)


def answers_of(result: "Result", rows: Sequence[Row]) -> list[AnsweredRow]:
    """The answers of the written model, even to rows that a board would give no label."""
    from convert.learning.training import answers_of  # noqa: PLC0415 - needs PyTorch

    return answers_of(result.model, rows, Quantization.Q8_0, _ignore_progress)


def board_answers(result: "Result", rows: Sequence[Row]) -> list[AnsweredRow]:
    """The answers that a board would give. Scores of a written model are above 0 where its own limit is exceeded."""
    return with_limits(answers_of(result, rows), (0.0, None))


def _ignore_progress(_what: str, _share: float) -> None:
    pass
