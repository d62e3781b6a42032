"""Students of a teacher on labelled texts: how often each is right on rows that neither has seen."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from convert.evaluate.requests import read_tasks
from convert.evaluate.worker import Adapted
from convert.learning.baseline import baseline_of
from convert.learning.evaluation import answers_of
from convert.learning.folds import Fold
from convert.learning.model import train_model
from convert.learning.quality import Answered
from convert.learning.recipe import Recipe
from convert.learning.rows import Row, read_rows, read_unlabelled
from convert.learning.table import build_table
from convert.learning.teacher import ask_teacher
from convert.quantize.recipe import Quantization
from rigs.accuracy import datasets

HEADS = (
    "texts",
    "labelled",
    "others",
    "TF-IDF",
    "alone",
    "teacher",
    "student",
    "teacher, corrected",
    "student of that",
)


def run_distillation(
    model: Path, folder: Path, name: str, *, labelled: int, others: int, steps: int, seed: int
) -> tuple[str, ...]:
    """Cells below HEADS. folder: of the data sets and the teacher's answers. others: rows without labels, at most."""
    data = datasets.load(name, folder)
    known = random.Random(seed).sample(data.train, min(labelled + others, len(data.train)))
    work = folder / "distil" / name
    work.mkdir(parents=True, exist_ok=True)
    table = (
        f"[tasks.{name}]\nkind = 'classify'\nlabels = {json.dumps(data.labels)}\nsystem = {json.dumps(data.system)}\n"
    )
    (work / "config.toml").write_text(table, "utf-8")
    tasks = read_tasks(work / "config.toml")
    rows = read_rows(_written(work / "rows.jsonl", known[:labelled]), tasks)
    test = read_rows(_written(work / "test.jsonl", data.test), tasks)
    inputs = [json.dumps({"input": row.input}) + "\n" for row in known[labelled:]]
    (work / "inputs.jsonl").write_text("".join(inputs), "utf-8")
    unlabelled = read_unlabelled(work / "inputs.jsonl", tasks, rows)
    asked = [*rows, *test]
    teacher, _ = ask_teacher(Adapted.from_path(model), asked, unlabelled, work=work, progress=_ignore)
    corrected = teacher.corrected_by(rows)

    def of(train: Sequence[Row]) -> str:
        student = train_model(train, Recipe(steps=steps, seed=seed), _ignore)
        return _share(answers_of(student, test, Quantization.Q8_0, _ignore))

    baseline = baseline_of([Fold(rows, test)], name, build_table(rows))
    return (
        name,
        str(len(rows)),
        str(len(teacher.unlabelled)),
        "–" if baseline is None else f"{baseline.right / len(test):.1%}",
        of(rows),
        _share(teacher.judged_on(test)),
        of([*rows, *teacher.lessons(teacher.unlabelled)]),
        _share(corrected.judged_on(test)),
        of([*rows, *corrected.lessons(teacher.unlabelled)]),
    )


def _share(answers: Sequence[Answered]) -> str:
    return f"{sum(one.is_right for one in answers) / len(answers):.1%}"


def _written(path: Path, rows: Sequence[datasets.Row]) -> Path:
    path.write_text("".join(json.dumps({"input": row.input, "answer": row.label}) + "\n" for row in rows), "utf-8")
    return path


def _ignore(_what: str, _share: float) -> None:
    """Progress that nobody looks at."""
