"""Answers tasks of the kind `unusual`: how rare a reading is among usual ones, and which fields make it so.

The numbers of usual readings follow a mixture of normal distributions; values of other fields, and gaps, have shares.
A reading's score is its negative log density. Leaving a field out puts the mean surprise of its values in its place,
so that scores of readings with and without it can be compared.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.strict_json import compact_json, number_of
from edge_agent.core.wording import cut
from edge_agent.gguf.usual_readings import UsualReadings

Floats = npt.NDArray[np.float64]

# Of a score in an answer.
SCORE_DIGITS = 6
# No answer says that a reading is rarer than this.
MIN_RARITY = 1e-6
_RARITY_DIGITS = 6
# The fields without which a reading is at least this rare among usual ones explain why it is not.
_ORDINARY = 0.05
_MAX_NAMED = 5
# Standard deviations around what the other fields suggest: 98 % of usual values.
_USUAL = 2.33
# Farther from the center than this, distances count by their logarithm, so that an error code does not stretch a scale.
_FAR = 8.0
_MAX_DISTANCE = 1e12
# Beyond it, densities are no numbers. Variances of the converter are at least 1e-4.
_MAX_PRECISION = 1e9
# Patterns of missing numbers for which matrices are kept.
_PATTERNS = 32


@dataclass(frozen=True, slots=True)
class NamedField:
    """A field that makes a reading rare."""

    field: str
    value: Any
    usual: tuple[float, float] | None  # The range that the other fields suggest; None for a field of few values.


@dataclass(frozen=True, slots=True)
class Comparison:
    """How rare a reading is among usual ones."""

    score: float
    rarity: float
    because: list[NamedField]  # The fields that make it rare, most telling first.


@dataclass(frozen=True, slots=True)
class _Marginal:
    """The mixture over some of the numbers."""

    means: Floats  # [components, numbers]
    precisions: Floats  # [components, numbers, numbers]
    log_weights: Floats  # [components], with the constant of each component's log density.

    def drop(self, at: int) -> "_Marginal":
        """Over all of its numbers but one."""
        rest = np.arange(self.means.shape[1]) != at
        column, diagonal = self.precisions[:, at, rest], self.precisions[:, at, at]
        precisions = self.precisions[:, rest][:, :, rest] - column[:, :, None] * (column / diagonal[:, None])[:, None]
        return _Marginal(self.means[:, rest], precisions, self.log_weights + 0.5 * np.log(2 * np.pi / diagonal))


class Usual:
    """Compares readings with usual ones. Raises ValueError for covariances that are none."""

    def __init__(self, usual: UsualReadings) -> None:
        self.usual = usual
        numbers = usual.numbers
        self._centers = np.array([field.center for field in numbers])
        self._scales = np.array([field.scale for field in numbers])
        self._expected = np.array([field.expected for field in numbers])
        self._weights = np.array([component.weight for component in usual.components])
        self._means = np.array([component.mean for component in usual.components]).reshape(
            len(usual.components), len(numbers)
        )
        self._covariances = np.zeros((len(usual.components), len(numbers), len(numbers)))
        for at, component in enumerate(usual.components):
            for row, values in enumerate(component.covariance):
                self._covariances[at, row, : row + 1] = self._covariances[at, : row + 1, row] = values
        self._marginal = lru_cache(maxsize=_PATTERNS)(self._make_marginal)
        self._marginal(tuple(range(len(numbers))))

    def _make_marginal(self, known: tuple[int, ...]) -> _Marginal:
        chosen = np.array(known, dtype=int)
        covariances = self._covariances[:, chosen][:, :, chosen]
        try:
            triangles = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"covariances should be positive definite: {error}") from error
        precisions = np.linalg.inv(covariances)
        if not np.all(np.abs(precisions) <= _MAX_PRECISION):
            raise ValueError("covariances should be positive definite: some are nearly singular")
        log_determinants = 2 * np.log(np.diagonal(triangles, axis1=1, axis2=2)).sum(axis=1)
        log_weights = np.log(self._weights) - 0.5 * (log_determinants + len(known) * math.log(2 * math.pi))
        return _Marginal(self._means[:, chosen], precisions, log_weights)

    def rarity_of(self, score: float) -> float:
        """The share of usual readings that are at least as rare, this one included."""
        scores, tail = self.usual.scores, self.usual.tail
        if tail is not None and score > tail.threshold:
            excess = (score - tail.threshold) / tail.scale
            log_share = -excess if tail.shape == 0 else -math.log1p(tail.shape * excess) / tail.shape
            return max(round(tail.share * math.exp(log_share), _RARITY_DIGITS), MIN_RARITY)
        return round((len(scores) - bisect_left(scores, score) + 1) / (len(scores) + 1), _RARITY_DIGITS)

    def compare(self, values: Mapping[str, Any], *, max_rarity: float = 1.0) -> Comparison:
        """How rare a reading is; if its rarity is at most `max_rarity`, also the fields that make it rare."""
        surprises, known, z = self._read(values)
        marginal = self._marginal(known)
        log_density, fields = _log_density(marginal, z), list(known)
        score = self._score(surprises, known, log_density)
        rarity = self.rarity_of(score)
        if rarity > max_rarity:
            return Comparison(score, rarity, [])
        named = list[str]()
        rest, rest_score = dict(surprises), score
        while len(named) < _MAX_NAMED:
            name, at = max(rest, key=rest.__getitem__, default=""), None
            if fields:
                excess = _conditional_surprises(marginal, z) - self._expected[fields]
                best = int(np.argmax(excess))
                if not rest or excess[best] > rest[name]:
                    name, at = self.usual.numbers[fields[best]].name, best
            surprise = rest.pop(name) if at is None else float(excess[at])
            if surprise <= 0 and named:
                break
            named.append(name)
            rest_score -= surprise
            if at is not None:
                marginal, z = marginal.drop(at), np.delete(z, at)
                del fields[at]
            if self.rarity_of(rest_score) >= _ORDINARY or not (rest or fields):
                break
        because = [self._named(name, values, fields, marginal, z) for name in named]
        return Comparison(score, rarity, because)

    def score(self, values: Mapping[str, Any]) -> float:
        surprises, known, z = self._read(values)
        return self._score(surprises, known, _log_density(self._marginal(known), z))

    def conditional_surprises(self, values: Mapping[str, Any]) -> dict[str, float]:
        """How surprising the value of each number is, given all others."""
        _, known, z = self._read(values)
        surprises = _conditional_surprises(self._marginal(known), z)
        return {self.usual.numbers[at].name: float(surprise) for at, surprise in zip(known, surprises, strict=True)}

    def _read(self, values: Mapping[str, Any]) -> tuple[dict[str, float], tuple[int, ...], Floats]:
        """By how much each value and gap surprises more than usual; which numbers there are, and their places."""
        surprises, known, numbers = dict[str, float](), list[int](), list[float]()
        for at, field in enumerate(self.usual.numbers):
            value = values.get(field.name)
            number = number_of(value)
            code = field.codes.get(value_text(value)) if field.codes and number is not None else None
            if number is None or code is not None:
                surprises[field.name] = -math.log(code or (field.missing if value is None else field.odd))
            else:
                known.append(at)
                numbers.append(number)
        for of_values in self.usual.values:
            value = values.get(of_values.name)
            share = of_values.missing if value is None else of_values.values.get(value_text(value), of_values.other)
            surprises[of_values.name] = -math.log(share) - of_values.expected
        with np.errstate(over="ignore"):
            z = (np.array(numbers) - self._centers[known]) / self._scales[known] if known else np.zeros(0)
        return surprises, tuple(known), soften(z)

    def _score(self, surprises: Mapping[str, float], known: Sequence[int], log_density: float) -> float:
        gaps = float(self._expected.sum() - self._expected[list(known)].sum())
        return sum(surprises.values()) + gaps - log_density

    def _named(
        self, name: str, values: Mapping[str, Any], known: Sequence[int], rest: _Marginal, z: Floats
    ) -> NamedField:
        """known, rest, z: the numbers that are not named."""
        number = next((at for at, field in enumerate(self.usual.numbers) if field.name == name), None)
        if number is None:
            return NamedField(name, _as_shown(values.get(name)), None)
        field = self.usual.numbers[number]
        means, variances = self._means[:, number], self._covariances[:, number, number]
        log_weights = np.log(self._weights)
        if known:
            covariances = self._covariances[:, number, list(known)]
            weighed = np.einsum("kij,kj->ki", rest.precisions, z - rest.means)
            means = means + np.einsum("ki,ki->k", covariances, weighed)
            variances = variances - np.einsum("ki,kij,kj->k", covariances, rest.precisions, covariances)
            log_weights = rest.log_weights - 0.5 * np.einsum("ki,ki->k", z - rest.means, weighed)
        weights = np.exp(log_weights - _log_sum(log_weights))
        mean = float(weights @ means)
        deviation = math.sqrt(max(float(weights @ (variances + means**2)) - mean**2, 1e-12))
        low, high = (field.center + field.scale * harden(mean + sign * _USUAL * deviation) for sign in (-1, 1))
        # What no row had is not usual, whatever the other fields suggest.
        if low <= field.high and high >= field.low:
            low, high = max(low, field.low), min(high, field.high)
        return NamedField(name, _as_shown(values.get(name)), (_rounded(low), _rounded(high)))


def soften(z: Floats) -> Floats:
    # A caller's number may be so large that the distance is infinite.
    z = np.clip(z, -_MAX_DISTANCE, _MAX_DISTANCE)
    size = np.abs(z)
    return np.sign(z) * np.where(size <= _FAR, size, _FAR + np.log1p(np.maximum(size - _FAR, 0)))


def harden(z: float) -> float:
    """The inverse of `soften`, as far as ranges need it."""
    return math.copysign(abs(z) if abs(z) <= _FAR else _FAR + math.expm1(min(abs(z) - _FAR, 20.0)), z)


def _as_shown(value: Any) -> Any:
    """A value as it came; a long one is cut to a text."""
    if value is None or isinstance(value, int | float):
        return value
    return cut(value if isinstance(value, str) else compact_json(value))


def value_text(value: Any) -> str:
    """How a value of a field of few values is spelled: 1, 1.0 and "1" are the same."""
    number = number_of(value)
    if number is not None:
        return repr(number)
    return value if isinstance(value, str) else compact_json(value)


def _log_sum(logs: Floats) -> Any:
    """Over the first axis."""
    most = logs.max(axis=0)
    return most + np.log(np.exp(logs - most).sum(axis=0))


def _log_density(marginal: _Marginal, z: Floats) -> float:
    if not len(z):
        return 0.0
    offsets = z - marginal.means
    squares = np.einsum("ki,kij,kj->k", offsets, marginal.precisions, offsets)
    return float(_log_sum(marginal.log_weights - 0.5 * squares))


def _conditional_surprises(marginal: _Marginal, z: Floats) -> Floats:
    """For each number the negative log density that it has, given all others."""
    offsets = z - marginal.means
    weighed = np.einsum("kij,kj->ki", marginal.precisions, offsets)
    diagonals = np.diagonal(marginal.precisions, axis1=1, axis2=2)
    logs = marginal.log_weights - 0.5 * (offsets * weighed).sum(axis=1)
    without = logs[:, None] + 0.5 * weighed**2 / diagonals + 0.5 * np.log(2 * np.pi / diagonals)
    surprises: Floats = _log_sum(without) - _log_sum(logs)
    return surprises


def _rounded(number: float) -> float:
    """To four digits, which is what a person reads."""
    return float(f"{number:.4g}")
