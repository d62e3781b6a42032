"""What the feedback of many boards gives together: one map from five boards, beside one from as many free corrections.

Reads raw scores, a file for each task: {"labels", "prior": {label: p} or null, "train": [[{label: p}, right]], "test"}.
Each of five boards draws 20 corrections from `train`; the last one's mix of labels is another. All accuracies are of
`test`, which nothing is fitted to; that of the last board is of a draw from it with the board's mix.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from convert.errors import ConvertError
from convert.learning.maps import fit_maps
from edge_agent.accuracy.assessment import Row
from edge_agent.accuracy.export import Export
from edge_agent.accuracy.fit import fit
from edge_agent.accuracy.score_map import ScoreMap
from edge_agent.tools.output import aligned
from rigs.accuracy.scores import share_right

BOARDS, CORRECTIONS, SEEDS = 5, 20, 5
# How much more often the last board sees every other label.
_SHIFT = 8.0
# Points that the federated map may be behind, on the mean.
_MAY_LOSE = 0.01
_HEAD = (
    "task",
    "start",
    "a board alone",
    "federated",
    "all free",
    "other mix: shared",
    "with own biases",
    "boards with own",
)


@dataclass(frozen=True, slots=True)
class _Found:
    """Shares of right answers, and how many boards have biases of their own.

    start: without feedback. alone: by one board's own map. federated: by the map that a board without biases gets.
    free: by a map of as many corrections, none of another mix. shifted, own: on the other mix, without and with what
    the last board has of its own.
    """

    start: float
    alone: float
    federated: float
    free: float
    shifted: float
    own: float
    boards_with_own: float


def run(arguments: argparse.Namespace) -> int:
    """The exit code: 1 where the federated map is behind. Raises SystemExit where there are no scores."""
    paths = sorted(arguments.scores.rglob("*.json"))
    if not paths:
        raise SystemExit(f"{arguments.scores}: no scores are there")
    names = [str(path.relative_to(arguments.scores).with_suffix("")) for path in paths]
    found = {name: _of_task(json.loads(path.read_text("utf-8")), name) for name, path in zip(names, paths, strict=True)}
    rows: list[tuple[str, ...]] = [_HEAD, *((name, *_cells(one)) for name, one in found.items())]
    average = _mean(list(found.values()))
    print("\n".join(aligned([*rows, ("mean", *_cells(average))])))
    lost = average.free - average.federated
    print(f"federated is {-100 * lost:+.1f} points from all free; it may lose {100 * _MAY_LOSE:g}")
    return int(lost > _MAY_LOSE)


def _of_task(scores: Any, name: str) -> _Found:
    start = ScoreMap.identity(scores["labels"]) if scores["prior"] is None else ScoreMap.dividing_by(scores["prior"])
    train, test = ([(one, right) for one, right in scores[part]] for part in ("train", "test"))
    return _mean([_once(name, start, train, test, random.Random(seed)) for seed in range(SEEDS)])


def _once(name: str, start: ScoreMap, train: list[Row], test: list[Row], chance: random.Random) -> _Found:
    """One draw of boards and of free corrections, which are drawn from all of `train` alike."""
    weights = {
        label: _SHIFT if place % 2 else 1.0
        for place, label in enumerate(chance.sample(start.labels, len(start.labels)))
    }
    rows = chance.sample(train, len(train))
    other = _drawn(rows, weights, CORRECTIONS, chance)
    left = [row for row in rows if not any(row is one for one in other)]
    boards = [left[number * CORRECTIONS : (number + 1) * CORRECTIONS] for number in range(BOARDS - 1)]
    free = chance.sample(train, BOARDS * CORRECTIONS)
    shared, own = _federated(name, [*boards, other], start)
    other_test = _drawn(test, weights, len(test) // 2, chance)
    return _Found(
        start=share_right(test, start),
        alone=mean(share_right(test, fit(rows, start)) for rows in boards),
        federated=mean(share_right(test, own.get(f"rig/b{number}", shared)) for number in range(BOARDS - 1)),
        free=share_right(test, fit(free, start)),
        shifted=share_right(other_test, shared),
        own=share_right(other_test, own.get(f"rig/b{BOARDS - 1}", shared)),
        boards_with_own=len(own),
    )


def _federated(name: str, boards: Sequence[Sequence[Row]], start: ScoreMap) -> tuple[ScoreMap, dict[str, ScoreMap]]:
    """As `edge-convert maps` fits them; the start where it fits none."""
    try:
        (found,) = fit_maps([_export(name, number, rows, start) for number, rows in enumerate(boards)], "m")
    except ConvertError:
        return start, {}
    return found.shared or start, found.own


def _export(name: str, number: int, rows: Sequence[Row], start: ScoreMap) -> Export:
    answers = [
        {
            "number": place,
            "at": None,
            "scores": scores,
            "output": start.best(scores)[0],
            "label": right,
            "is_marked": True,
            "is_audit": False,
        }
        for place, (scores, right) in enumerate(rows, 1)
    ]
    board = {"site": "rig", "device": f"b{number}", "task": name, "definition": name, "model": "m"}
    return Export.model_validate(
        {"schema": 1, **board, "map": None, "prior": start.to_json(), "since": 0, "answers": answers}
    )


def _drawn(rows: Sequence[Row], weights: dict[str, float], number: int, chance: random.Random) -> list[Row]:
    """Without repetition, by the weight of the right label (Efraimidis and Spirakis 2006)."""
    return sorted(rows, key=lambda row: chance.random() ** (1 / weights[row[1]]), reverse=True)[:number]


def _mean(found: Sequence[_Found]) -> _Found:
    return _Found(*(mean(getattr(one, name) for one in found) for name in _Found.__dataclass_fields__))


def _cells(one: _Found) -> list[str]:
    shares = [getattr(one, name) for name in ("start", "alone", "federated", "free", "shifted", "own")]
    return [*(f"{100 * share:.1f}" for share in shares), f"{one.boards_with_own:.1f}"]
