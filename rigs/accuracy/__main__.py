"""How often a model's answers to `classify` are right: `python -m rigs.accuracy`.

datasets: lists the labelled tasks, after each has been downloaded once. Needs PyPI and npm.
gains MODEL: what prior correction and feedback gain on them, and whether promises hold; exits with 1 where a target is
missed. The scores of a model are asked once, which takes half an hour for a 0.5B.
simulate: promises, drift and fits where the truth is known, without a model.
tune MODEL: whether `edge-agent tune` with 50 rows is nearly as good as with 500, in time, and as fast.
federated: what the corrections of five boards give together. Needs raw scores.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import mean

from rigs import machine
from rigs.accuracy import federated, tuning
from rigs.accuracy.datasets import DATASETS, load
from rigs.accuracy.gains import feedback, prior, promises
from rigs.accuracy.scores import scores_of
from rigs.accuracy.simulate import simulate
from rigs.bench.figures import processor


def _list_datasets(arguments: argparse.Namespace) -> int:
    heads = ("name", "package", "licence", "labels", "train", "test", "majority", "characters")
    layout = "{:16} {:36} {:21} {:>6} {:>5} {:>5} {:>8} {:>10}"
    print(layout.format(*heads))
    for dataset in DATASETS:
        task, archive = load(dataset.name, arguments.folder), dataset.archive
        package = f"{archive.package}=={archive.version}" if archive else "-"
        licence = archive.licence if archive else "-"
        [(_, most)] = Counter(row.label for row in task.test).most_common(1)
        share = f"{most / len(task.test):.0%}"
        length = round(mean(len(row.input) for row in (*task.train, *task.test)))
        sizes = (len(task.labels), len(task.train), len(task.test))
        print(layout.format(task.name, package, licence, *sizes, share, length))
    return 0


def _measure_gains(arguments: argparse.Namespace) -> int:
    tasks = scores_of(arguments.model, arguments.folder, arguments.tasks, arguments.rows)
    print(f"{processor()}, seed {arguments.seed}")
    are_met = [prior(tasks), feedback(tasks, arguments.seed), promises(tasks, arguments.seed)]
    return 0 if all(are_met) else 1


def main() -> None:
    """Raises SystemExit if an archive cannot be had."""
    parser = machine.parser_of("rigs.accuracy", __doc__)
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("datasets", help="list the labelled tasks")
    listing.set_defaults(run=_list_datasets)
    gaining = commands.add_parser("gains", help="measure prior correction, feedback and promises with a model")
    gaining.add_argument("model", type=machine.model_path, help="a bundle or a .gguf")
    names = [dataset.name for dataset in DATASETS]
    gaining.add_argument("--tasks", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    gaining.add_argument("--rows", type=int, default=300, help="at most, of each half (default: %(default)s)")
    gaining.add_argument("--seed", type=int, default=1)
    gaining.set_defaults(run=_measure_gains)
    simulating = commands.add_parser("simulate", help="promises, drift and fits against worlds whose truth is known")
    simulating.add_argument("--seed", type=int, default=1)
    simulating.set_defaults(run=lambda arguments: 0 if simulate(arguments.seed) else 1)
    tune = commands.add_parser("tune", help="judge what `edge-agent tune` makes of a few rows")
    tune.add_argument("model", metavar="MODEL", type=machine.model_path)
    tune.add_argument("--tasks", nargs="+", metavar="NAME", choices=names, default=names, help="default: all")
    tune.add_argument("--rows", type=int, default=50, help="that tune gets (default: %(default)s)")
    tune.add_argument("--minutes", type=float, default=tuning.MOST_MINUTES, help="for each task (default: %(default)s)")
    tune.add_argument("--most-train", type=int, default=500, help="rows that the best map is fitted to")
    tune.add_argument("--most-test", type=int, default=300, help="rows that are judged")
    tune.add_argument("--seed", type=int, default=0, help="of the choice of rows")
    tune.set_defaults(run=tuning.run)
    for command in (listing, gaining, tune):
        command.add_argument("--folder", type=Path, default=Path("build/accuracy"), help="for downloads and scores")
    joining = commands.add_parser("federated", help="compare one map from five boards with one from free corrections")
    joining.add_argument(
        "--scores", type=Path, default=Path("build/accuracy/scores"), help="raw scores, one file a task"
    )
    joining.set_defaults(run=federated.run)
    arguments = parser.parse_args()
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
