"""How many strange readings are noticed: each of their numbers is usual, but is that of another row.

By the class "unlike" of a trained model, by the mixture of the kind `unusual` that learns from the same rows, and by
both together. Each takes 2 % of ordinary rows that it has not seen for strange, too.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from convert.agent import RarityModel
from convert.learning.quality import UNLIKE_SHARE
from convert.learning.recipe import Recipe
from convert.learning.training_rows import Row
from convert.learning.usual import learn_usual
from convert.quantize.recipe import Quantization
from edge_agent.core.terminal import aligned
from rigs.bench.figures import processor
from rigs.rows.compressor import Floats, compressor, compressor_faults, readings
from rigs.rows.training import classify_table, read_rows
from rigs.training.readings import FAULTS, draw_case

LEARNT, ASKED = 2000, 1000
Labelled = list[dict[str, Any]]
# Scores of ordinary and of strange rows; the higher, the stranger.
Scores = tuple[Floats, Floats]


def main(words: Sequence[str]) -> int:
    """Prints a table. It has no target, so the exit code is 0."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows unlike", description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings of each set (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="of a training (default: %(default)s)")
    given = parser.parse_args(words)
    names = given.sets or list(SETS)
    print(processor())
    recipes = [Recipe(steps=given.steps, seed=seed) for seed in range(given.seeds)]
    shares = np.array([[check(name, recipe) for recipe in recipes] for name in names])
    lines = [("strange rows that are noticed", "class", "mixture", "both")]
    lines += [(name, *_spread(of_set)) for name, of_set in zip(names, shares, strict=True)]
    lines += [("mean of the sets", *_spread(shares.mean(axis=0)))]
    print(*aligned(lines), sep="\n")
    return 0


def _spread(shares: Floats) -> tuple[str, str, str]:
    """shares: [seeds, 3]"""
    of_class, of_mixture, of_both = (
        f"{mean:.1%} ({least:.1%} to {most:.1%})"
        for mean, least, most in zip(shares.mean(axis=0), shares.min(axis=0), shares.max(axis=0), strict=True)
    )
    return of_class, of_mixture, of_both


def check(name: str, recipe: Recipe) -> list[float]:
    learnt, *asked = drawn(name, recipe.seed)
    by_class, by_mixture = class_scores(learnt, asked, recipe), mixture_scores(learnt, asked)
    half = UNLIKE_SHARE / 2
    by_both = np.any([_is_noticed(scores, half) for scores in (by_class, by_mixture)], axis=0)
    noticed = (_is_noticed(by_class, UNLIKE_SHARE), _is_noticed(by_mixture, UNLIKE_SHARE), by_both)
    shares = [float(of_rows.mean()) for of_rows in noticed]
    print(f"{name}, seed {recipe.seed}, {recipe.steps} steps:", *(f"{share:.1%}" for share in shares), flush=True)
    return shares


def drawn(name: str, seed: int) -> list[list[Row]]:
    """Rows to learn from, ordinary others, and strange ones, each number of which is from any of the others."""
    draw = np.random.default_rng(seed)
    rows, cut = SETS[name](draw)
    rows = [rows[at] for at in draw.permutation(len(rows))]
    others, names = rows[cut:], list(rows[0]["input"])
    strange = [
        {
            "input": {name: others[at]["input"][name] for name, at in zip(names, places, strict=True)},
            "answer": others[places[0]]["answer"],
        }
        for places in draw.integers(len(others), size=(ASKED, len(names)))
    ]
    table = classify_table(sorted({row["answer"] for row in rows}))
    return [read_rows(part, table) for part in (rows[:cut], others, strange)]


def class_scores(learnt: Sequence[Row], asked: Sequence[Sequence[Row]], recipe: Recipe) -> Scores:
    # PyTorch takes seconds, and the short form has none.
    from convert.learning.model import train_model  # noqa: PLC0415
    from convert.learning.training import answers_of  # noqa: PLC0415

    model = train_model(learnt, recipe, _quiet)
    ordinary, strange = (
        np.array([answered.unlike for answered in answers_of(model, rows, Quantization.Q8_0, _quiet)]) for rows in asked
    )
    return ordinary, strange


def mixture_scores(learnt: Sequence[Row], asked: Sequence[Sequence[Row]]) -> Scores:
    usual = RarityModel(learn_usual([row.values for row in learnt]))
    ordinary, strange = (np.array([usual.score(row.values) for row in rows]) for rows in asked)
    return ordinary, strange


def share_noticed(scores: Scores) -> float:
    return float(_is_noticed(scores, UNLIKE_SHARE).mean())


def _is_noticed(scores: Scores, alarms: float) -> Any:
    """alarms: the share of the ordinary rows that may be taken for strange ones."""
    ordinary, strange = scores
    return strange > np.quantile(ordinary, 1 - alarms, method="higher")


def _pump(draw: np.random.Generator) -> tuple[Labelled, int]:
    source = random.Random(int(draw.integers(1 << 31)))
    faults = [source.choice(FAULTS) for _ in range(LEARNT + ASKED)]
    return [{"input": asdict(draw_case(source, fault).reading), "answer": fault} for fault in faults], LEARNT


def _compressor(draw: np.random.Generator) -> tuple[Labelled, int]:
    half = (LEARNT + ASKED) // 2
    usual, faulty = readings(compressor(draw, half)), readings(compressor_faults(draw, compressor(draw, half)))
    return _labelled(usual + faulty, ["usual"] * half + ["faulty"] * half), LEARNT


def _bundled(name: str) -> Callable[[np.random.Generator], tuple[Labelled, int]]:
    """A set of scikit-learn, of whose rows 60 % are learnt."""

    def load(_draw: np.random.Generator) -> tuple[Labelled, int]:
        from sklearn import datasets  # noqa: PLC0415 - as PyTorch

        bunch = getattr(datasets, f"load_{name}")()
        answers = [str(bunch.target_names[answer]) for answer in bunch.target]
        return _labelled(readings(bunch.data), answers), len(answers) * 6 // 10

    return load


def _labelled(inputs: Sequence[dict[str, float]], answers: Sequence[str]) -> Labelled:
    return [{"input": value, "answer": answer} for value, answer in zip(inputs, answers, strict=True)]


def _quiet(_what: str, _share: float) -> None:
    """No progress."""


SETS: dict[str, Callable[[np.random.Generator], tuple[Labelled, int]]] = {
    "pump": _pump,
    "compressor": _compressor,
    **{name: _bundled(name) for name in ("iris", "wine", "breast_cancer")},
}
