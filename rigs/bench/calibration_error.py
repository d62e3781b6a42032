"""How far label scores are from how often the labels are right: accuracy, calibration error and a table by score.

Asks the engine for the label of every held-out reading of the demonstration, alone and eight at once: the last bits
depend on how many rows a step has, labels and scores should not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.environment import library_environment
from edge_agent.core.protocol import ChatMessage, EngineSettings, Finished, LabelsPlan, Load, Run, TaskPrefix
from edge_agent.core.strict_json import compact_json
from edge_agent.tools.demo.readings import held_out, tasks
from rigs.machine import model_path

BINS = 10
WIDTH = 8
TASK = "machine-triage"


@dataclass(frozen=True)
class Bin:
    """Answers whose best score is in one range: their number, mean score, and the share that is right."""

    lowest: float
    answers: int
    mean_score: float
    right: float


def reliability(scores: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]) -> list[Bin]:
    """Equal steps of the best score; empty bins are left out."""
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        Bin(place / BINS, int(inside.sum()), float(scores[inside].mean()), float(is_right[inside].mean()))
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between score and share of right answers, weighted by answers (Guo et al., ICML 2017)."""
    total = sum(one.answers for one in bins)
    return sum(one.answers * abs(one.mean_score - one.right) for one in bins) / total


def ask(model: Path, rows: Sequence[Any]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Scores of each row, asked alone and eight at once."""
    os.environ.update(library_environment())
    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415 - after its environment is set

    task = tasks()[TASK]
    prefix = TaskPrefix(task=TASK, system=task["system"], user_head="")
    settings = EngineSettings(max_active=WIDTH)
    engine = LlamaEngine(Load(model_path=str(model), settings=settings, tasks=(prefix,)))
    runs = [
        Run(
            id=number,
            task=TASK,
            messages=(
                ChatMessage(role="system", content=task["system"]),
                ChatMessage(role="user", content=_text(row.payload)),
            ),
            plan=LabelsPlan(labels=tuple(task["labels"])),
        )
        for number, row in enumerate(rows)
    ]
    answers: list[list[dict[str, float]]] = []
    for width in (1, WIDTH):
        found: dict[int, dict[str, float]] = {}
        for start in range(0, len(runs), width):
            for run in runs[start : start + width]:
                engine.add(run)
            while engine.has_work:
                for event in engine.step():
                    if not isinstance(event, Finished) or event.scores is None:
                        raise SystemExit(f"a reading was not answered: {event}")
                    found[event.id] = event.scores
                    if sys.stderr.isatty():
                        print(f"{width} at once: {len(found)}/{len(runs)}   ", end="\r", file=sys.stderr)
        answers.append([found[number] for number in range(len(runs))])
    engine.close()
    return answers[0], answers[1]


def _text(payload: str) -> str:
    return compact_json(json.loads(payload)) if payload.lstrip().startswith(("{", "[")) else payload


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.bench.calibration_error", description=__doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL.gguf")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = held_out()[: options.rows]
    alone, together = ask(options.model, rows)
    best = [max(scores, key=lambda label: scores[label]) for scores in alone]
    best_scores = np.array([scores[label] for scores, label in zip(alone, best, strict=True)])
    is_right = np.array([label == row.fault for label, row in zip(best, rows, strict=True)])
    bins = reliability(best_scores, is_right)
    same = [max(scores, key=lambda label: scores[label]) == label for scores, label in zip(together, best, strict=True)]
    differences = np.array(
        [max(abs(one[label] - other[label]) for label in one) for one, other in zip(alone, together, strict=True)]
    )
    result = {
        "answers": len(rows),
        "right": round(float(is_right.mean()), 4),
        "mean_score": round(float(best_scores.mean()), 4),
        "expected_calibration_error": round(expected_calibration_error(bins), 4),
        "same_label_alone_and_together": round(float(np.mean(same)), 4),
        "score_difference_mean": round(float(differences.mean()), 6),
        "score_difference_p99": round(float(np.quantile(differences, 0.99)), 6),
        "score_difference_largest": round(float(differences.max()), 6),
        "bins": [asdict(one) for one in bins],
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for name, value in result.items():
        if name != "bins":
            print(f"{name.replace('_', ' '):32} {value}")
    print(f"\n{'score':>11} {'answers':>8} {'mean score':>11} {'right':>7}")
    for one in bins:
        name = f"{one.lowest:.1f}–{one.lowest + 1 / BINS:.1f}"
        print(f"{name:>11} {one.answers:>8} {one.mean_score:>11.3f} {one.right:>7.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
