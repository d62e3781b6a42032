"""How right each prompt is with each correction of its scores, and which of them to choose."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist

from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.commands.tune.prompts import Prompt
from edge_agent.learning.maths.calibration import JudgedAnswer, calibration_error, count_right, share_right
from edge_agent.learning.maths.fit import fit
from edge_agent.learning.maths.shares import interval

_FOLDS = 10
# A prompt that is right more often by this many standard errors is better, whatever its log loss.
_CLEAR_LEAD = 2.5

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
class PromptTrial:
    prompt: Prompt
    definition: str
    prior: Scores | None  # The scores where an input says nothing.
    scores: Mapping[int, Scores]  # By number of a row.
    unlabelled: Sequence[Scores] = ()  # Of inputs without labels.
    pairs_ms: list[tuple[float, float]] = field(default_factory=list)
    """Times of one input with the configured prompt and with this one."""
    prefix_tokens: int = 0  # The tokens that its requests share.

    @property
    def slowdown(self) -> float:
        """Its time divided by that of the configured prompt."""
        return statistics.median(own / base for base, own in self.pairs_ms) if self.pairs_ms else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A prompt with a correction of its scores."""

    trial: PromptTrial
    correction: Correction
    score_map: ScoreMap | None  # For use; None if scores stay as they are.
    answers: Sequence[str]  # The right labels, by number of a row.
    start: ScoreMap | None = None  # What `score_map` was fitted from, to all rows; None if it is not fitted to labels.
    _judged: dict[frozenset[int], dict[int, JudgedAnswer]] = field(default_factory=dict)

    @property
    def rows(self) -> frozenset[int]:
        return frozenset(self.trial.scores)

    @property
    def judged(self) -> list[JudgedAnswer]:
        return list(self.judged_on(self.rows).values())

    def judged_on(self, rows: frozenset[int]) -> dict[int, JudgedAnswer]:
        """By a row's number. A map is fitted to these rows alone, and judged on those that the fit did not see."""
        if rows not in self._judged:
            maps = dict.fromkeys(rows, self.score_map) if self.start is None else self._fold_maps(rows, self.start)
            self._judged[rows] = {
                row: JudgedAnswer.of(self.trial.scores[row], self.answers[row], maps[row]) for row in sorted(rows)
            }
        return self._judged[rows]

    @property
    def accuracy(self) -> float:
        return share_right(self.judged)

    @property
    def interval(self) -> tuple[float, float]:
        return interval(count_right(self.judged), len(self.judged))

    @property
    def log_loss(self) -> float:
        return statistics.fmean(judged.log_loss for judged in self.judged)

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.judged)

    @property
    def never_answered(self) -> list[str]:
        """The labels that are right for some row, and best for none."""
        return sorted({self.answers[row] for row in self.rows} - {judged.label for judged in self.judged})

    @property
    def complexity(self) -> tuple[bool, int]:
        """The correction's complexity, which is lowest for the one that needs no other key."""
        default = Correction.PRIOR if self.trial.prompt.config.always_corrects_prior else Correction.AS_IS
        return self.correction not in (default, Correction.CONFIGURED), list(Correction).index(self.correction)

    def _fold_maps(self, rows: frozenset[int], start: ScoreMap) -> dict[int, ScoreMap | None]:
        maps = [
            fit([(self.trial.scores[row], self.answers[row]) for row in sorted(rows) if row % _FOLDS != fold], start)
            for fold in range(_FOLDS)
        ]
        return {row: maps[row % _FOLDS] for row in rows}


def candidates(trial: PromptTrial, answers: Sequence[str], configured: ScoreMap | None) -> list[Candidate]:
    """The prompt with each possible correction. `configured` is the map that is in force for this prompt."""
    maps: dict[Correction, ScoreMap | None] = {Correction.AS_IS: None}
    if trial.prior is not None:
        maps[Correction.PRIOR] = ScoreMap.dividing_by(trial.prior)
    if configured is not None:
        maps[Correction.CONFIGURED] = configured
    if trial.unlabelled:
        maps[Correction.MEAN] = dividing_by_mean(trial.unlabelled)
    variants = [Candidate(trial, correction, score_map, answers) for correction, score_map in maps.items()]
    rows = [(trial.scores[row], answers[row]) for row in sorted(trial.scores)]
    # Which start is better depends on how much of the prior is true.
    starts = {Correction.MAP: ScoreMap.identity(tuple(rows[0][0]))}
    if trial.prior is not None:
        starts[Correction.MAP_OF_PRIOR] = ScoreMap.dividing_by(trial.prior)
    variants += (Candidate(trial, correction, fit(rows, start), answers, start) for correction, start in starts.items())
    return variants


def dividing_by_mean(all_scores: Sequence[Scores]) -> ScoreMap:
    """Batch calibration (arXiv 2309.17249), which assumes that all labels are equally frequent."""
    means = {label: statistics.fmean(scores[label] for scores in all_scores) for label in all_scores[0]}
    return ScoreMap.dividing_by(means, even_share=0.0)


def log_loss_gain(candidate: Candidate, over: Candidate) -> tuple[float, float]:
    """How much lower its log loss is on the rows that both are judged on, on average; and the standard error."""
    return _gain(candidate, over, lambda judged: -judged.log_loss)


def accuracy_gain(candidate: Candidate, over: Candidate) -> tuple[float, float]:
    return _gain(candidate, over, lambda judged: float(judged.is_right))


def _gain(candidate: Candidate, over: Candidate, worth: Callable[[JudgedAnswer], float]) -> tuple[float, float]:
    rows = candidate.rows & over.rows
    own, other = candidate.judged_on(rows), over.judged_on(rows)
    gains = [worth(own[row]) - worth(other[row]) for row in rows]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))


def choose(candidates: Sequence[Candidate], reference: Candidate) -> Candidate:
    """The simplest prompt that no other beats by more than chance, in log loss or in right answers.

    The best of many prompts is partly the luckiest: the best of n equal prompts leads by about luck(n) standard errors.
    Corrections cost no time, so the one with the lowest log loss is chosen, unless it is right less often than the
    reference, on the same rows, by more than a standard error.
    """
    by_prompt = dict[str, list[Candidate]]()
    for candidate in sorted(candidates, key=lambda candidate: candidate.complexity):
        by_prompt.setdefault(candidate.trial.prompt.name, []).append(candidate)
    leaders = sorted(map(_leader, by_prompt.values()), key=lambda candidate: candidate.trial.prompt.complexity)
    best = max(leaders, key=lambda candidate: log_loss_gain(candidate, leaders[0])[0])
    most_right = max(leaders, key=lambda candidate: accuracy_gain(candidate, leaders[0])[0])
    max_lead = luck(len(leaders))
    alike = (
        candidate
        for candidate in leaders
        if _is_within(log_loss_gain(best, candidate), max_lead)
        and _is_within(accuracy_gain(most_right, candidate), _CLEAR_LEAD)
    )
    corrected = by_prompt[next(alike, best).trial.prompt.name]
    right = [candidate for candidate in corrected if _is_within(accuracy_gain(reference, candidate), 1.0)]
    return _leader(right) if right else reference


def luck(prompts: int) -> float:
    """The standard errors by which chance lets the best of several equal prompts lead; at least one."""
    return max(NormalDist().inv_cdf(1 - 1 / prompts), 1.0) if prompts > 1 else 1.0


def _leader(of_prompt: Sequence[Candidate]) -> Candidate:
    return min(of_prompt, key=lambda candidate: candidate.log_loss)


def _is_within(difference: tuple[float, float], errors: float) -> bool:
    mean, error = difference
    return mean <= errors * error
