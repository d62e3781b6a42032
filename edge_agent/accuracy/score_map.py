"""A map of a model's label scores to scores that are right more often. Applied to each answer, without numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# A probability of 0 has no logarithm.
LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """The logarithm of each label's score is multiplied by the label's scale, and its bias added.

    labels: in the order of scale and bias.
    """

    labels: tuple[str, ...]
    scale: tuple[float, ...]
    bias: tuple[float, ...]

    @classmethod
    def identity(cls, labels: tuple[str, ...]) -> ScoreMap:
        return cls(labels, (1.0,) * len(labels), (0.0,) * len(labels))

    @classmethod
    def dividing_by(cls, prior: Mapping[str, float]) -> ScoreMap:
        """Scores divided by the model's own preference (Zhao 2021, "Calibrate before use", arXiv 2102.09690)."""
        bias = tuple(-math.log(max(p, LEAST)) for p in prior.values())
        return cls(tuple(prior), (1.0,) * len(bias), bias)

    def apply(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Probabilities of the same labels, which sum to 1."""
        logits = {
            label: scale * math.log(max(scores[label], LEAST)) + bias
            for label, scale, bias in zip(self.labels, self.scale, self.bias, strict=True)
        }
        most = max(logits.values())
        weights = {label: math.exp(logits[label] - most) for label in scores}
        total = sum(weights.values())
        return {label: weight / total for label, weight in weights.items()}
