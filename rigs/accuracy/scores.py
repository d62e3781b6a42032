"""The model's own scores of every labelled row, asked once per model and kept in the folder of the rig."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.accuracy.score_map import ScoreMap
from edge_agent.core.config import ClassifyTask
from edge_agent.core.envelope import Envelope
from edge_agent.core.pipe import EngineSettings, Finished, Load
from edge_agent.models.bundle import open_model
from edge_agent.requests.tasks import Task
from edge_agent.worker.client import WorkerClient, started
from rigs.accuracy.datasets import DATASETS, LabelledTask, Row, load

# A label's score, by label; and the right label.
Scored = tuple[dict[str, float], str]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """prior: of inputs that say nothing. train: what may be learnt from. test: what is measured."""

    name: str
    labels: tuple[str, ...]
    prior: dict[str, float]
    train: list[Scored]
    test: list[Scored]

    @property
    def base(self) -> ScoreMap:
        """The map that the agent uses without feedback."""
        return ScoreMap.dividing_by(self.prior)


def scores_of(model: Path, folder: Path, names: Sequence[str], most_rows: int) -> list[TaskScores]:
    """Of these tasks, in the order of the list. most_rows: of each half. Progress goes to standard error."""
    opened = open_model("default", model)
    kept = folder / "scores" / hashlib.sha256(opened.weights_sha256.encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    wanted = [dataset.name for dataset in DATASETS if dataset.name in names]
    if any(not (kept / f"{name}-{most_rows}.json").is_file() for name in wanted):
        settings = EngineSettings(batch_tokens=128)
        with started(Load(model_path=str(opened.path), settings=settings, adapters=opened.adapters)) as worker:
            worker.ready()
            for name in wanted:
                if not (path := kept / f"{name}-{most_rows}.json").is_file():
                    path.write_text(json.dumps(_ask(worker, load(name, folder), most_rows)), encoding="utf-8")
    return [_read(name, kept / f"{name}-{most_rows}.json") for name in wanted]


def _ask(worker: WorkerClient, task: LabelledTask, most_rows: int) -> dict[str, object]:
    config = ClassifyTask(kind="classify", system=task.system, labels=task.labels)
    asked, began = Task(task.name, config), time.monotonic()
    priors = worker.set_tasks((asked.prefix(),))
    halves = {
        name: ask_rows(worker, asked, rows[:most_rows]) for name, rows in (("train", task.train), ("test", task.test))
    }
    rows = sum(map(len, halves.values()))
    print(f"{task.name}: {rows} rows, {rows / (time.monotonic() - began):.1f} a second", file=sys.stderr)
    return {"labels": task.labels, "prior": priors[asked.definition], **halves}


def ask_rows(worker: WorkerClient, task: Task, rows: Sequence[Row]) -> list[Scored]:
    """The model's own scores of each row, in order. Raises SystemExit for a row without an answer."""
    runs = [task.make_run(0, Envelope(input=row.input)) for row in rows]
    found: dict[int, dict[str, float]] = {}
    for answer in worker.ask_all(runs, at_once=4):
        if not isinstance(answer, Finished) or answer.scores is None:
            raise SystemExit(f"{task.name}: no answer to row {answer.id}: {answer}")
        found[answer.id] = answer.scores
    return [(found[number], row.label) for number, row in enumerate(rows, start=1)]


def _read(name: str, path: Path) -> TaskScores:
    document = json.loads(path.read_text("utf-8"))
    train, test = ([(scores, label) for scores, label in document[half]] for half in ("train", "test"))
    return TaskScores(name, tuple(document["labels"]), document["prior"], train, test)


def share_right(rows: Sequence[tuple[Mapping[str, float], str]], by: ScoreMap) -> float:
    """The share of rows whose best label under the map is right."""
    return sum(by.best(scores)[0] == label for scores, label in rows) / len(rows)


def judged(rows: Sequence[Scored], by: ScoreMap) -> list[tuple[float, bool]]:
    """The best label's score under the map, and whether it is right."""
    return [((found := by.best(scores))[1], found[0] == label) for scores, label in rows]
