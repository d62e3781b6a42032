"""How right each prompt is with each correction of its scores, and which of them to choose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist

from edge_agent.core.score_map import FLOOR, ScoreMap
from edge_agent.learning.commands.tune.prompts import Prompt
from edge_agent.learning.maths.calibration import calibration_error
from edge_agent.learning.maths.fit import fit
from edge_agent.learning.maths.shares import interval

_FOLDS = 10
# Standard errors by which a prompt that is right more often is better, whatever its log loss.
_CLEARLY = 2.5

Scores = Mapping[str, float]


class Correction(StrEnum):
    """What is done to a model's scores, the simplest first."""

    CONFIGURED = "configured map"
    AS_IS = "as-is"
    PRIOR = "prior"
    MEAN = "mean of inputs"
    MAP = "map"
    MAP_OF_PRIOR = "map of prior"


@dataclass(slots=True)
class Asked:
    """What a model answered to one prompt.

    prior: its scores where an input says nothing. scores: by number of a row. unlabelled: of inputs without labels.
    pairs_ms: times of one input with the configured prompt and with this one. prefix_tokens: what its requests share.
    """

    prompt: Prompt
    definition: str
    prior: Scores | None
    scores: Mapping[int, Scores]
    unlabelled: Sequence[Scores] = ()
    pairs_ms: list[tuple[float, float]] = field(default_factory=list)
    prefix_tokens: int = 0

    @property
    def slowdown(self) -> float:
        """Its time by that of the configured prompt."""
        return statistics.median(own / base for base, own in self.pairs_ms) if self.pairs_ms else 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one answer. loss: log loss in nats. label, score: the best label and its score."""

    loss: float
    label: str
    score: float
    is_right: bool


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A prompt with a correction.

    score_map: for use, None = none. answers: the right labels by number of a row.
    start: None = score_map is not fitted to labels; else what fits start from, and score_map is fitted to all rows.
    """

    asked: Asked
    correction: Correction
    score_map: ScoreMap | None
    answers: Sequence[str]
    start: ScoreMap | None = None
    _verdicts: dict[frozenset[int], dict[int, Verdict]] = field(default_factory=dict)

    @property
    def rows(self) -> frozenset[int]:
        return frozenset(self.asked.scores)

    @property
    def verdicts(self) -> dict[int, Verdict]:
        return self.on(self.rows)

    def on(self, rows: frozenset[int]) -> dict[int, Verdict]:
        """By number of a row. A map is fitted to these rows alone, and judged on those that the fit did not see."""
        if rows not in self._verdicts:
            maps = dict.fromkeys(rows, self.score_map) if self.start is None else self._unseen(rows, self.start)
            self._verdicts[rows] = {row: self._verdict(row, maps[row]) for row in sorted(rows)}
        return self._verdicts[rows]

    @property
    def accuracy(self) -> float:
        return accuracy(self.verdicts)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, at 95 %."""
        return interval(sum(one.is_right for one in self.verdicts.values()), len(self.verdicts))

    @property
    def calibration_error(self) -> float:
        return calibration_error([(one.score, one.is_right) for one in self.verdicts.values()])

    @property
    def never_answered(self) -> list[str]:
        """The labels that are right for some row, and best for none."""
        best = {one.label for one in self.verdicts.values()}
        return sorted({self.answers[row] for row in self.rows} - best)

    @property
    def complexity(self) -> tuple[bool, int]:
        """Of the correction: least for the one that needs no other key."""
        default = Correction.PRIOR if self.asked.prompt.config.corrects_prior else Correction.AS_IS
        return self.correction not in (default, Correction.CONFIGURED), list(Correction).index(self.correction)

    def _unseen(self, rows: frozenset[int], start: ScoreMap) -> dict[int, ScoreMap | None]:
        maps = [
            fit([(self.asked.scores[row], self.answers[row]) for row in sorted(rows) if row % _FOLDS != fold], start)
            for fold in range(_FOLDS)
        ]
        return {row: maps[row % _FOLDS] for row in rows}

    def _verdict(self, row: int, score_map: ScoreMap | None) -> Verdict:
        raw, answer = self.asked.scores[row], self.answers[row]
        scores = raw if score_map is None else score_map.apply(raw)
        best = max(scores, key=scores.__getitem__)
        return Verdict(_loss(scores, answer), best, scores[best], best == answer)


def candidates(asked: Asked, answers: Sequence[str], configured: ScoreMap | None) -> list[Candidate]:
    """The prompt with each correction that can be had. configured: the map that is in force for this prompt."""
    maps: dict[Correction, ScoreMap | None] = {Correction.AS_IS: None}
    if asked.prior is not None:
        maps[Correction.PRIOR] = ScoreMap.dividing_by(asked.prior)
    if configured is not None:
        maps[Correction.CONFIGURED] = configured
    if asked.unlabelled:
        maps[Correction.MEAN] = dividing_by_mean(asked.unlabelled)
    found = [Candidate(asked, correction, score_map, answers) for correction, score_map in maps.items()]
    rows = [(asked.scores[row], answers[row]) for row in sorted(asked.scores)]
    # Which start is better depends on how much of the prior is true.
    starts = {Correction.MAP: ScoreMap.identity(tuple(rows[0][0]))}
    if asked.prior is not None:
        starts[Correction.MAP_OF_PRIOR] = ScoreMap.dividing_by(asked.prior)
    found += (Candidate(asked, correction, fit(rows, start), answers, start) for correction, start in starts.items())
    return found


def _loss(scores: Scores, answer: str) -> float:
    return -math.log(max(scores[answer], FLOOR))


def dividing_by_mean(several: Sequence[Scores]) -> ScoreMap:
    """Batch calibration (arXiv 2309.17249), which supposes that all labels are equally frequent."""
    means = {label: statistics.fmean(scores[label] for scores in several) for label in several[0]}
    return ScoreMap.dividing_by(means, even_share=0.0)


def accuracy(verdicts: Mapping[int, Verdict]) -> float:
    return statistics.fmean(one.is_right for one in verdicts.values())


def gain(of: Candidate, over: Candidate) -> tuple[float, float]:
    """How much less the log loss is on the rows that both are judged on, on average; and the standard error."""
    rows = of.rows & over.rows
    own, other = of.on(rows), over.on(rows)
    return _mean_and_error([other[row].loss - own[row].loss for row in rows])


def _gain_of_rights(of: Candidate, over: Candidate) -> tuple[float, float]:
    """The same of the share of right answers."""
    rows = of.rows & over.rows
    own, other = of.on(rows), over.on(rows)
    return _mean_and_error([float(own[row].is_right) - other[row].is_right for row in rows])


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def choose(several: Sequence[Candidate], reference: Candidate) -> Candidate:
    """The simplest prompt that no other beats by more than chance, in log loss or in right answers.

    The best of many prompts is partly the luckiest: of n that are alike it leads by as many standard errors as `luck`
    says. Of its corrections, which cost no time, the one of the least log loss is chosen, unless it is right less often
    than the reference, on the same rows, by more than a standard error.
    """
    by_prompt = dict[str, list[Candidate]]()
    for one in sorted(several, key=lambda one: one.complexity):
        by_prompt.setdefault(one.asked.prompt.name, []).append(one)
    leaders = sorted((_leader(of) for of in by_prompt.values()), key=lambda one: one.asked.prompt.complexity)
    best = max(leaders, key=lambda one: gain(one, leaders[0])[0])
    most_right = max(leaders, key=lambda one: _gain_of_rights(one, leaders[0])[0])
    most = luck(len(leaders))
    alike = (
        one
        for one in leaders
        if _is_within(gain(best, one), most) and _is_within(_gain_of_rights(most_right, one), _CLEARLY)
    )
    prompt = next(alike, best).asked.prompt
    right = [one for one in by_prompt[prompt.name] if _is_within(_gain_of_rights(reference, one), 1.0)]
    return _leader(right) if right else reference


def luck(prompts: int) -> float:
    """The standard errors by which chance lets the best of several equal prompts lead; at least one."""
    return max(NormalDist().inv_cdf(1 - 1 / prompts), 1.0) if prompts > 1 else 1.0


def _leader(of_prompt: Sequence[Candidate]) -> Candidate:
    return min(of_prompt, key=lambda one: statistics.fmean(verdict.loss for verdict in one.verdicts.values()))


def _is_within(difference: tuple[float, float], errors: float) -> bool:
    mean, error = difference
    return mean <= errors * error
