"""Models that `edge-convert train` makes, on rows of several sources that they have not seen.

compare: trains with 200 rows and with as many as there are, up to 2000. Exits with 1 if a model is right less often
than the baseline (gradient boosting; for texts TF-IDF with logistic regression) by more than its interval reaches below
its accuracy.
unlike: which inputs a model takes for unlike training: of other machines, of other texts, with injected instructions.
Exits with 1 if it takes more than 5 % of the ordinary inputs of a source, or less than 95 % of another kind.
intervals: how often the interval that a bundle states contains the accuracy on all other rows, of the sources in turn;
exits with 1 if in less than 90 %.
distil: students of a teacher, with few labelled texts, beside the teacher, TF-IDF and a model of the labels alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

from edge_agent.core.extras import missing_extra
from edge_agent.tools.output import aligned
from rigs import machine
from rigs.bench.figures import processor
from rigs.plants.sources import PLANTS
from rigs.plants.unlike import TEXTS, unpack_source


def main() -> int:
    parser = machine.parser_of("rigs.plants", __doc__)
    commands = parser.add_subparsers(required=True)
    comparing = commands.add_parser("compare", help="train on each source, and compare with a baseline")
    comparing.add_argument("--rows", type=int, nargs="+", default=[200, 2000], help="to train with (default: 200 2000)")
    comparing.add_argument("--minutes", type=float, default=5.0, help="of each training (default: %(default)s)")
    comparing.set_defaults(run=_compare)
    judging = commands.add_parser("intervals", help="check the intervals of many short trainings")
    judging.add_argument("--rows", type=int, default=200)
    judging.add_argument("--trials", type=int, default=100, help="of all sources together (default: %(default)s)")
    judging.add_argument("--minutes", type=float, default=0.5, help="of each training (default: %(default)s)")
    judging.set_defaults(run=_judge_intervals)
    noticing = commands.add_parser("unlike", help="ask for inputs that are unlike training")
    noticing.add_argument("--rows", type=int, nargs="+", default=[200, 2000], help="to train with (default: 200 2000)")
    noticing.add_argument("--minutes", type=float, default=5.0, help="of each training (default: %(default)s)")
    noticing.set_defaults(run=_notice_unlike)
    teaching = commands.add_parser("distil", help="train on few labelled texts and a teacher's answers to others")
    teaching.add_argument("model", metavar="MODEL", type=machine.model_path, help="the teacher")
    teaching.add_argument("--texts", nargs="+", default=["film-remarks", "house-commands", "languages"])
    teaching.add_argument("--labelled", type=int, nargs="+", default=[50, 200], help="rows (default: 50 200)")
    teaching.add_argument("--others", type=int, default=450, help="rows without labels, at most (default: %(default)s)")
    teaching.add_argument("--steps", type=int, default=800, help="of each training (default: %(default)s)")
    teaching.add_argument("--seed", type=int, default=1, help="of the rows (default: %(default)s)")
    teaching.add_argument("--folder", type=Path, default=Path("build/accuracy"), help="for downloads and answers")
    teaching.set_defaults(run=_distil)
    sources = (*PLANTS, *TEXTS)
    for command in (comparing, judging, noticing):
        command.add_argument("--sources", nargs="+", choices=sources, default=list(sources), help="default: all")
        command.add_argument("--seed", type=int, default=1, help="of rows and training (default: %(default)s)")
        command.add_argument("--archives", type=Path, default=machine.ROOT / "build" / "accuracy", help="of the texts")
    arguments = parser.parse_args()
    if missing := missing_extra("train"):
        sys.exit(missing)
    result: int = arguments.run(arguments)
    return result


def _compare(arguments: argparse.Namespace) -> int:
    from rigs.plants.trial import run_trial  # noqa: PLC0415 - needs PyTorch

    heads = ("source", "rows", "test rows", "judged", "95 %", "right", "baseline", "score error", "parameters", "min")
    table: list[tuple[str, ...]] = [heads]
    misses = []
    for name in arguments.sources:
        most = unpack_source(name, arguments.archives, max(arguments.rows), arguments.seed)
        for number in sorted({min(number, len(most.train)) for number in arguments.rows}):
            began = time.monotonic()
            source = unpack_source(name, arguments.archives, number, arguments.seed)
            found = run_trial(name, source, arguments.minutes, arguments.seed)
            minutes = (time.monotonic() - began) / 60
            low, high = found.interval
            shares = (f"{share:.1%}" for share in (found.true, found.baseline, found.score_error))
            interval = f"{low:.1%} – {high:.1%}"
            cells = (name, str(number), str(len(source.test)), f"{found.judged:.1%}", interval, *shares)
            table.append((*cells, f"{found.parameters:,}", f"{minutes:.1f}"))
            print(*aligned([table[0], table[-1]]), sep="\n", flush=True)
            if found.true < found.baseline - (found.judged - low):
                misses.append(f"{name}, {number} rows: right in {found.true:.1%}, the baseline in {found.baseline:.1%}")
    print(f"\n{processor()}, seed {arguments.seed}", *aligned(table), *(f"missed: {miss}" for miss in misses), sep="\n")
    return 1 if misses else 0


def _notice_unlike(arguments: argparse.Namespace) -> int:
    from rigs.plants.trial import run_unlike  # noqa: PLC0415 - needs PyTorch

    are_met = True
    for name in arguments.sources:
        table = [("source", "rows", "inputs", "taken for unlike")]
        for number in arguments.rows:
            source = unpack_source(name, arguments.archives, number, arguments.seed)
            found = run_unlike(name, source, arguments.minutes, arguments.seed)
            rows = str(len(source.train))
            table.append((name, rows, f"ordinary, {found.right:.1%} right", f"{found.ordinary:.1%}"))
            table += [(name, rows, kind, f"{share:.1%}") for kind, share in found.found.items()]
            are_met = are_met and found.ordinary <= 0.05 and min(found.found.values()) >= 0.95
        print(f"\n{processor()}, seed {arguments.seed}", *aligned(table), sep="\n", flush=True)
    return 0 if are_met else 1


def _judge_intervals(arguments: argparse.Namespace) -> int:
    from rigs.plants.trial import run_trial  # noqa: PLC0415 - needs PyTorch

    counts = {name: Counter[str]() for name in arguments.sources}
    for trial, name in zip(range(arguments.trials), cycle(arguments.sources), strict=False):
        seed = arguments.seed + trial
        found = run_trial(name, unpack_source(name, arguments.archives, arguments.rows, seed), arguments.minutes, seed)
        low, high = found.interval
        where = "below" if found.true < low else "above" if found.true > high else "inside"
        counts[name][where] += 1
        print(f"{name}, seed {seed}: {found.true:.1%} is {where} {low:.1%} to {high:.1%}", flush=True)
    wheres = ("inside", "below", "above")
    table = [("source", *wheres), *((name, *(str(count[where]) for where in wheres)) for name, count in counts.items())]
    print(f"\n{processor()}", *aligned(table), sep="\n")
    return 0 if sum(count["inside"] for count in counts.values()) >= 0.9 * arguments.trials else 1


def _distil(arguments: argparse.Namespace) -> int:
    from rigs.plants.distil import HEADS, run_distillation  # noqa: PLC0415 - needs PyTorch

    table: list[tuple[str, ...]] = [HEADS]
    for name in arguments.texts:
        for labelled in arguments.labelled:
            table.append(
                run_distillation(
                    arguments.model,
                    arguments.folder,
                    name,
                    labelled=labelled,
                    others=arguments.others,
                    steps=arguments.steps,
                    seed=arguments.seed,
                )
            )
            print(*aligned([table[0], table[-1]]), sep="\n", flush=True)
    print(f"\n{processor()}, seed {arguments.seed}", *aligned(table), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
