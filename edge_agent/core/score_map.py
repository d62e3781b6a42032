"""Maps a task's raw scores to scores that mean how often the label is right.

The map is affine in the logarithm of each score: supervised calibration, arXiv 2505.23783. With a bias alone it is
contextual calibration, arXiv 2102.09690.

A bundle's score_maps.json has maps that were fitted to the feedback of many boards, keyed by the task's definition:
{"schema": 1, "maps": {"<definition>": {"task", "map": <ScoreMap>, "boards": {"<site>/<device>": <ScoreMap>}}}}
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import shown

SCORE_MAPS_FILE = "score_maps.json"
SCORE_MAPS_SCHEMA = 1

# A model's softmax can give exactly 0, whose logarithm no bias could lift.
FLOOR = 1e-9
# A prior from content-free inputs overstates what the model prefers for real ones, so this share of it is spread
# evenly. Chosen on the training halves of the nine labelled tasks of `rigs.accuracy` (CONTRIBUTING.md).
EVEN_SHARE = 0.2
# Far beyond any fit; sums of such terms stay finite.
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Adds `biases[i]` to `scales[i]` times the log score of `labels[i]`; a softmax makes scores of the sums.

    Raises ValueError if the lengths differ, a label repeats, there is none, or a number is huge or not finite.
    """

    labels: tuple[str, ...]
    scales: tuple[float, ...]
    biases: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("a score map needs distinct labels")
        if not len(self.labels) == len(self.scales) == len(self.biases):
            raise ValueError("a score map needs one scale and one bias per label")
        if not all(abs(number) <= _LARGEST for number in (*self.scales, *self.biases)):
            raise ValueError(f"a score map's scales and biases are finite, at most {_LARGEST:g}")

    @classmethod
    def identity(cls, labels: Sequence[str]) -> Self:
        """Leaves scores as they are, but for the floor."""
        return cls(tuple(labels), (1.0,) * len(labels), (0.0,) * len(labels))

    @classmethod
    def dividing_by(cls, prior: Mapping[str, float], *, even_share: float = EVEN_SHARE) -> Self:
        """Divides each score by what the label gets from content-free inputs, smoothed, and normalizes."""
        even = even_share / len(prior)
        biases = tuple(-_log((1 - even_share) * chance + even) for chance in prior.values())
        return cls(tuple(prior), (1.0,) * len(prior), biases)

    def apply(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The new score of each label, in the order of `scores`; they sum to 1. Raises ValueError for other labels."""
        if len(scores) != len(self.labels) or not all(label in scores for label in self.labels):
            raise ValueError("the labels of the scores are not those of the score map")
        parts = zip(self.labels, self.scales, self.biases, strict=True)
        logs = {label: scale * _log(scores[label]) + bias for label, scale, bias in parts}
        top = max(logs.values())
        weights = {label: math.exp(logs[label] - top) for label in scores}
        total = sum(weights.values())
        return {label: weight / total for label, weight in weights.items()}

    def best(self, scores: Mapping[str, float]) -> tuple[str, float]:
        return max(self.apply(scores).items(), key=lambda item: item[1])

    def to_json(self) -> dict[str, list[float]]:
        """The scale and the bias of each label."""
        parts = zip(self.labels, self.scales, self.biases, strict=True)
        return {label: [scale, bias] for label, scale, bias in parts}

    @classmethod
    def from_json(cls, value: object, labels: Sequence[str]) -> Self:
        """The map that `to_json` wrote, for a task with these labels. Raises ValueError, which names the fault."""
        if not isinstance(value, dict) or value.keys() != set(labels):
            raise ValueError("a score map is an object with the task's labels")
        pairs = [value[label] for label in labels]
        for pair in pairs:
            if not isinstance(pair, list) or [type(number) in (int, float) for number in pair] != [True, True]:
                raise ValueError("each label of a score map has a list of two numbers, scale and bias")
        return cls(tuple(labels), tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def _log(score: float) -> float:
    return math.log(max(score, FLOOR))


def read_score_maps(data: bytes) -> dict[str, Any]:
    """The entries by the task's definition, each fit for `score_map_for`. Raises ValueError, which names the fault."""
    document = parse_json(data.decode())
    maps = document.get("maps") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(maps, dict) or document.get("schema") != SCORE_MAPS_SCHEMA:
        raise ValueError(f"should be an object of schema {SCORE_MAPS_SCHEMA} with maps")
    for definition, entry in maps.items():
        match entry:
            case {"map": dict(shared), "boards": dict(boards)}:
                try:
                    for board in (None, *boards):
                        score_map_for(entry, board, list(shared))
                except ValueError as error:
                    raise ValueError(f"maps: {shown(definition)}: {error}") from None
            case _:
                raise ValueError(f"maps: {shown(definition)} should be an object with map and boards")
    return maps


def score_map_for(entry: Mapping[str, Any], board: str | None, labels: Sequence[str]) -> ScoreMap:
    """The map for `board`, a `<site>/<device>`; the shared one if it is None or the entry does not name it.

    Raises ValueError if its labels are not those of the task, in that order, or it cannot be used.
    """
    return ScoreMap.from_json(entry["boards"].get(board, entry["map"]), labels)
