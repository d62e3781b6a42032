"""Scores that mean how often a label is right: a model is surer of rows it has learnt than it is right on others."""

from collections.abc import Sequence
from dataclasses import replace

from ..agent import ScoreMap, fit_temperature_map
from .quality import Answered


def score_map_of(answers: Sequence[Answered]) -> ScoreMap | None:
    """Of one task; it changes no answer. None = there are no labels, few labelled rows, or no map is better."""
    known = [
        (one.scores, one.row.answer)
        for one in answers
        if one.scores is not None and not one.is_unlike and one.row.chances is None
    ]
    return fit_temperature_map(known, list(known[0][0])) if known else None


def with_map(answers: Sequence[Answered], score_map: ScoreMap) -> list[Answered]:
    """With the scores that a board gives."""
    return [one if one.scores is None else replace(one, scores=score_map.apply(one.scores)) for one in answers]
