"""Measures how many answers are right: as the model gives them / always divided by its prior / by default.

Each file is one of these public sets, under its name, as `products.jsonl`: labelled rows as for `edge-agent tune`, in
random order, with no input twice. The first row of each label serves as an example and is never asked.

domains   CLINC150, test sentences of data_full.json with the domain of their intent (github.com/clinc/oos-eval): car,
          food, home, work, travel, banking, small talk, credit card, phone tools, assistant settings
snips     SNIPS 2017, validation sentences with their intent (github.com/sonos/nlu-benchmark): music, cinema, rating,
          search, weather, playlist, restaurant
vehicles  SAE J2012 fault messages by the prefix of their code (PyPI: obd, obd/codes.py): fuel and air P00 to P02,
          ignition P03 P23, emissions P04, speed and idling P05, computer P06, transmission P07 to P09 P27, electric
          drive P0A, network U01 to U04
products  Amazon review snippets, rated from -4 to 4 (PyPI: vaderSentiment, hutto_ICWSM_2014.tar.gz): negative up to -1,
          neutral between -0.25 and 0.25, positive from 1
films     movie review snippets of the same archive, without neutral ones
sms       SMS Spam Collection (archive.ics.uci.edu/dataset/228): ham, spam
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.labelled import RowsError, read_values
from edge_agent.core.pipe import EngineSettings, Finished, Load
from edge_agent.core.score_map import ScoreMap
from edge_agent.models.bundle import open_model
from edge_agent.requests.collapse import is_collapsed
from edge_agent.requests.rows import TaskRow, read_rows
from edge_agent.requests.tasks import Task
from edge_agent.worker.client import WorkerClient, started
from rigs.bench.figures import processor
from rigs.machine import model_path, parser_of

# How `system` begins, and what it calls a label where it does not name them.
SETS = {
    "domains": ("You sort requests to an assistant", "topic"),
    "snips": ("You sort requests to an assistant", "purpose"),
    "vehicles": ("You sort fault messages of vehicles", "part"),
    "products": ("You sort customers' remarks on products", "opinion"),
    "films": ("You sort remarks on films", "opinion"),
    "sms": ("You sort text messages", "worth"),
}
_LINE = "{:10}{:>5}{:>8}   {:20}{:20}{}"


def main() -> int:
    parser = parser_of("rigs.priors", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("files", type=Path, nargs="+", metavar="ROWS", help="a .jsonl or .csv named after its set")
    parser.add_argument("--rows", type=int, default=100, help="how many of each set are asked (default: %(default)s)")
    options = parser.parse_args()
    try:
        sets = {path.stem: read_set(path) for path in options.files}
    except RowsError as error:
        raise SystemExit("\n".join(error.faults)) from error
    opened = open_model("default", options.model)
    print(processor(), _LINE.format("set", "rows", "labels", "named", "not named", "named, with examples"), sep="\n")
    with started(Load(model_path=str(opened.path), settings=EngineSettings(), adapters=opened.adapters)) as worker:
        worker.ready()
        for name, (tasks, rows) in sets.items():
            asked = rows[: options.rows]
            cells = [" / ".join(f"{percent:.0f}" for percent in _measured(worker, task, asked)) for task in tasks]
            print(_LINE.format(name, len(asked), len(tasks[0].config.choices), *cells), flush=True)
    return 0


def read_set(path: Path) -> tuple[list[Task], list[TaskRow]]:
    """A task for each column of the table, and the rows that none of them shows as an example. Raises RowsError."""
    if path.stem not in SETS:
        raise RowsError([f"{path} should be named after one of {', '.join(SETS)}"])
    what, noun = SETS[path.stem]
    answers = {value["answer"] for _, value in read_values(path, is_labelled=True)}
    labels = tuple(sorted(answers, key=lambda label: (len(label), label)))
    config = partial(ClassifyTask, kind="classify", labels=labels)
    named = partial(config, system=f"{what}. Answer with one label: {', '.join(labels[:-1])} or {labels[-1]}.")
    bare = Task("bare", config(system=f"{what} by {noun}."))
    rows, shown = read_rows(path, {"bare": bare}, is_labelled=True), dict[str, TaskRow]()
    for row in rows:
        shown.setdefault(row.answer, row)
    examples = tuple({"input": row.input, "answer": row.answer} for row in shown.values())
    tasks = [Task("named", named()), bare, Task("examples", named(examples=examples))]
    return tasks, [row for row in rows if row not in shown.values()]


def _measured(worker: WorkerClient, task: Task, rows: Sequence[TaskRow]) -> tuple[float, float, float]:
    prior = worker.set_tasks((task.prefix(),))[task.definition]
    requests = [TaskRow(row.where, task, row.fields).build_engine_request(0) for row in rows]
    answers = list[tuple[Mapping[str, float], str]]()
    for event in worker.ask_all(requests, at_once=4):
        assert isinstance(event, Finished), event
        answers.append((event.scores or {}, rows[event.id - 1].answer))
    return percents(answers, ScoreMap.dividing_by(prior))


def percents(answers: Sequence[tuple[Mapping[str, float], str]], prior_map: ScoreMap) -> tuple[float, float, float]:
    """Percent right as the model gives them, always corrected, and by default.

    `answers` are the model's scores with the right label.
    """
    as_is, corrected = (
        100 * sum(score_map.best(scores)[0] == label for scores, label in answers) / len(answers)
        for score_map in (ScoreMap.identity(prior_map.labels), prior_map)
    )
    return as_is, corrected, corrected if is_collapsed([scores for scores, _ in answers], prior_map) else as_is


if __name__ == "__main__":
    sys.exit(main())
