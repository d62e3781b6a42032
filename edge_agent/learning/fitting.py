"""Fits a score map in a process of its own, because numpy would take 25 MB of the agent's memory for good."""

import json
import os
import sys
from collections.abc import Sequence

from edge_agent.core.bounded import run_in_child
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.maths.assessment import LabelledScores


def better_map_in_child(rows: Sequence[LabelledScores], current: ScoreMap, base: ScoreMap) -> ScoreMap | None:
    """As `maths.fit.better_map`. Raises OutOfBoundsError if the process fails."""
    given = {"labels": current.labels, "rows": rows, "current": current.to_json(), "base": base.to_json()}
    better = json.loads(run_in_child("edge_agent.learning.fitting", json.dumps(given).encode()))
    return None if better is None else ScoreMap.from_json(better, current.labels)


def _main() -> None:
    # More threads than one make a fit slower where a core is busy.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from edge_agent.learning.maths.fit import better_map  # noqa: PLC0415 - numpy reads the variable when it is imported

    given = json.load(sys.stdin)
    current, base = (ScoreMap.from_json(given[name], given["labels"]) for name in ("current", "base"))
    better = better_map([(scores, label) for scores, label in given["rows"]], current, base)
    json.dump(None if better is None else better.to_json(), sys.stdout)


if __name__ == "__main__":
    _main()
