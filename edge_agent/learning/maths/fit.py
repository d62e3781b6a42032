"""Fits a task's score map to feedback, and says whether a fitted one is better than the one in force. Needs numpy.

Vector scaling (arXiv 1706.04599) of log scores with an L2 penalty on the distance from a start, as in supervised
calibration (arXiv 2505.23783). The agent fits in a process with OPENBLAS_NUM_THREADS=1 (learning/fitting.py): with more
threads, a busy core makes a fit ten times slower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edge_agent.core.score_map import FLOOR, ScoreMap
from edge_agent.learning.maths.assessment import LabelledScores

_Array = npt.NDArray[np.float64]
_Indexes = npt.NDArray[np.intp]

MIN_ROWS = 20
_FOLDS = 3
_STRENGTHS = (0.5, 2.0, 8.0, 32.0)
# A scale per label is tried only with this many rows per label.
_ROWS_PER_SCALE = 3
# No scale becomes negative, as feedback on wrong answers alone would then make the least likely label the best one.
_MIN_STRETCH = 0.05
_NEWTON_STEPS = 30
# In nats per row: far less than feedback can tell apart.
_TOLERANCE = 1e-4
_CONFIDENCE = 0.95
# The penalty on a board's own biases. It is fixed, because choosing it would make their cross-validation unfair.
_OFFSET_STRENGTH = 2.0


class _Family(Enum):
    """What a fit may change. A temperature never changes which label is best."""

    TEMPERATURE = 1
    BIASES = 2
    SCALES = 3
    # Biases alone, without a temperature.
    OFFSETS = 4


@dataclass(frozen=True, slots=True)
class _Feedback:
    log_scores: _Array  # [rows, labels]
    right: _Indexes  # The index of each row's right label.

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> "_Feedback":
        return _Feedback(self.log_scores[chosen], self.right[chosen])

    def __len__(self) -> int:
        return len(self.right)


def fit(rows: Sequence[LabelledScores], start: ScoreMap) -> ScoreMap:
    """The map that cross-validation finds best, for rows in any order. Raises ValueError for rows of other labels."""
    return _fit(_feedback(rows, start), start)


def better_map(rows: Sequence[LabelledScores], current: ScoreMap, base: ScoreMap) -> ScoreMap | None:
    """A map under which new answers have a lower log loss than under `current`; None if feedback proves no such map.

    `rows` may be in any order. Maps are judged by cross-validation, on rows that their fit does not see. A fit towards
    `base` is taken if its log loss is lower than that of `current` and that of `current` with a fitted temperature,
    each by a one-sided paired test at 95 %, and if it is right as often as `current`. Otherwise the temperature is
    taken, which changes no answer, if it passes the first test. What is taken is fitted again on all rows. Raises
    ValueError for rows or maps of other labels.
    """
    if base.labels != current.labels:
        raise ValueError("the two score maps have different labels, or the same in another order")
    # Rows of one label say nothing about the others.
    if len(rows) < MIN_ROWS or len({label for _, label in rows}) < 2:
        return None
    feedback = _feedback(rows, current)
    right = feedback.right
    old = _mapped(feedback, current)
    fitted = _cross_validated(feedback, partial(_fit, start=base))
    tempered = _cross_validated(feedback, partial(_tempered, current=current))
    is_better = _is_lower_loss(fitted, old, right, _foreseen_variance(fitted, old))
    is_better = is_better and _is_lower_loss(fitted, tempered, right, 0.0)
    if is_better and _count_right(fitted, right) >= _count_right(old, right):
        return _fit(feedback, base)
    is_better = _is_lower_loss(tempered, old, right, _foreseen_variance(tempered, old))
    return _tempered(feedback, current) if is_better else None


@dataclass(frozen=True, slots=True)
class SharedMap:
    """A map for several boards, if one is better than the start."""

    map: ScoreMap | None
    before: float  # The share of right rows with the start.
    after: float  # The same with a map, cross-validated.


def shared_map(rows: Sequence[LabelledScores], start: ScoreMap) -> SharedMap:
    """A map for several boards, from the rows of all in any order, with a lower cross-validated log loss than `start`.

    Raises ValueError for fewer than MIN_ROWS rows, and for rows of other labels.
    """
    if len(rows) < MIN_ROWS:
        raise ValueError(f"at least {MIN_ROWS} corrections are needed (got {len(rows)})")
    feedback = _feedback(rows, start)
    old, new = _mapped(feedback, start), _cross_validated(feedback, partial(_fit, start=start))
    is_better = _scores_of_right(new - old, feedback.right).sum() > 0
    before, after = (_count_right(logs, feedback.right) / len(rows) for logs in (old, new))
    return SharedMap(_fit(feedback, start) if is_better else None, before, after)


def board_map(rows: Sequence[LabelledScores], shared: ScoreMap) -> ScoreMap | None:
    """`shared` with a board's own biases; None if its rows do not prove that these lower the log loss.

    The proof is a one-sided paired test at 95 % under cross-validation, with as many right answers. That `shared` has
    seen the rows only makes it stricter. Raises ValueError for rows of other labels.
    """
    if len(rows) < MIN_ROWS:
        return None
    feedback = _feedback(rows, shared)
    fitted = partial(_fit_family, start=shared, family=_Family.OFFSETS, strength=_OFFSET_STRENGTH)
    old, new = _mapped(feedback, shared), _cross_validated(feedback, fitted)
    is_better = _is_lower_loss(new, old, feedback.right, _foreseen_variance(new, old))
    is_better = is_better and _count_right(new, feedback.right) >= _count_right(old, feedback.right)
    return fitted(feedback) if is_better else None


def _cross_validated(feedback: _Feedback, fitted: Callable[[_Feedback], ScoreMap]) -> _Array:
    """Log scores [rows, labels], each by a map that is fitted without its row."""
    fold = np.random.default_rng(0).permutation(len(feedback)) % _FOLDS
    result = np.empty_like(feedback.log_scores)
    for number in range(_FOLDS):
        result[fold == number] = _mapped(feedback[fold == number], fitted(feedback[fold != number]))
    return result


def _fit(feedback: _Feedback, start: ScoreMap) -> ScoreMap:
    choices = [(_Family.TEMPERATURE, 1.0), *((_Family.BIASES, strength) for strength in _STRENGTHS)]
    if len(feedback) >= _ROWS_PER_SCALE * len(start.labels):
        choices += ((_Family.SCALES, strength) for strength in _STRENGTHS)
    gains = dict[tuple[_Family, float], float]()
    for family, strength in choices:
        fitted = partial(_fit_family, start=start, family=family, strength=strength)
        gains[family, strength] = _scores_of_right(_cross_validated(feedback, fitted), feedback.right).sum()
    return _fit_family(feedback, start, *max(gains, key=gains.__getitem__))


def _tempered(feedback: _Feedback, current: ScoreMap) -> ScoreMap:
    return _fit_family(feedback, current, _Family.TEMPERATURE, 1.0)


def _fit_family(feedback: _Feedback, start: ScoreMap, family: _Family, strength: float) -> ScoreMap:
    """Newton's method on log loss + strength/2 · squared distance of scales (relative) and biases from the start."""
    logits = feedback.log_scores * start.scales + start.biases
    rows, labels = logits.shape
    is_shared = family is not _Family.SCALES
    scales = 1 if is_shared else labels
    free = {_Family.TEMPERATURE: slice(0, 1), _Family.OFFSETS: slice(1, None)}.get(family, slice(None))
    is_right = np.arange(labels) == feedback.right[:, np.newaxis]

    def per_scale(values: _Array) -> _Array:
        return values.sum(axis=-1, keepdims=True) if is_shared else values

    def objective(change: _Array) -> tuple[float, _Array]:
        """The value to minimize, and the log scores [rows, labels] at this change."""
        logs = _log_softmax(logits * (1 + change[:scales]) + change[scales:])
        return float(strength * change @ change / 2 - logs[is_right].sum()), logs

    change = np.zeros(scales + labels)
    value, logs = objective(change)
    curvature = np.empty((len(change), len(change)))
    for _ in range(_NEWTON_STEPS):
        chances = np.exp(logs)
        weighted, error = chances * logits, chances - is_right
        gradient = np.concatenate([per_scale((error * logits).sum(axis=0)), error.sum(axis=0)]) + strength * change
        means = np.hstack([per_scale(weighted), chances])[:, free]
        cross = weighted.sum(axis=0)
        curvature[:scales, :scales] = np.diag(per_scale((weighted * logits).sum(axis=0)))
        curvature[:scales, scales:] = cross if is_shared else np.diag(cross)
        curvature[scales:, :scales] = curvature[:scales, scales:].T
        curvature[scales:, scales:] = np.diag(chances.sum(axis=0))
        hessian = curvature[free, free] - means.T @ means
        hessian[np.diag_indices_from(hessian)] += strength
        step = np.zeros_like(change)
        step[free] = np.linalg.solve(hessian, gradient[free])
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE * rows:
            break
        length = 1.0
        while (tried := objective(change - length * step))[0] > value - length * decrease / 4 and length > 1e-3:
            length /= 2
        change, (value, logs) = change - length * step, tried
    stretch = np.maximum(np.ones(labels) + change[:scales], _MIN_STRETCH)
    biases = np.array(start.biases) * stretch + change[scales:]
    return ScoreMap(start.labels, tuple((np.array(start.scales) * stretch).tolist()), tuple(biases.tolist()))


def _feedback(rows: Sequence[LabelledScores], of: ScoreMap) -> _Feedback:
    index = {label: number for number, label in enumerate(of.labels)}
    if any(scores.keys() != index.keys() or right not in index for scores, right in rows):
        raise ValueError("the labels of the feedback are not those of the score map")
    scores = np.array([[scores[label] for label in of.labels] for scores, _ in rows])
    return _Feedback(np.log(np.maximum(scores, FLOOR)), np.array([index[right] for _, right in rows], dtype=np.intp))


def _mapped(feedback: _Feedback, by: ScoreMap) -> _Array:
    return _log_softmax(feedback.log_scores * by.scales + by.biases)


def _log_softmax(logits: _Array) -> _Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: _Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _scores_of_right(log_scores: _Array, right: _Indexes) -> _Array:
    result: _Array = log_scores[np.arange(len(right)), right]
    return result


def _count_right(log_scores: _Array, right: _Indexes) -> int:
    return int((log_scores.argmax(axis=1) == right).sum())


def _is_lower_loss(new: _Array, old: _Array, right: _Indexes, min_variance: float) -> bool:
    """One-sided paired t-test at _CONFIDENCE."""
    gains = _scores_of_right(new - old, right)
    error = (max(float(gains.var(ddof=1)), min_variance) / len(gains)) ** 0.5
    normal = NormalDist().inv_cdf(_CONFIDENCE)
    # Student's quantile by Cornish and Fisher's expansion.
    quantile = normal + (normal**3 + normal) / (4 * (len(gains) - 1))
    return bool(gains.mean() > quantile * error)


def _foreseen_variance(new: _Array, old: _Array) -> float:
    """The variance of the gain in the right label's log score, if the old map's scores were true.

    Where few answers are wrong, a sample may hold none of the rows that count most: its own variance is too small.
    """
    gain, chances = new - old, np.exp(old)
    return float(((chances * gain**2).sum(axis=1) - (chances * gain).sum(axis=1) ** 2).mean())
