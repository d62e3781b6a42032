"""How rare a reading is among usual ones, and which fields make it so: the answers of tasks of the kind `unusual`.

A trained task asks the same of its inputs.

A Gaussian mixture models the numbers of usual readings; each categorical value and each gap has a probability.
A reading's score is its negative log density. A field that is left out counts by the mean surprisal of its values, so
that scores with and without it can be compared.
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
from edge_agent.gguf.usual_readings import UNSEEN, NumberField, UsualReadings

Floats = npt.NDArray[np.float64]

SCORE_DIGITS = 6
# No answer says that a reading is rarer than this.
MIN_RARITY = 1e-6
_RARITY_DIGITS = 6
# Fields are named until the reading without them is at least this common.
_MIN_ORDINARY_RARITY = 0.05
_MAX_NAMED = 5
# 98 % of a normal distribution lie within so many standard deviations.
_USUAL_DEVIATIONS = 2.33
# Distances from the center beyond this one grow logarithmically, so that an error code does not stretch a scale.
_FAR = 8.0
_MAX_DISTANCE = 1e12
# Beyond it, densities overflow. The converter's variances are at least 1e-4.
_MAX_PRECISION = 1e9
# Matrices are kept for this many patterns of missing numbers.
_MAX_PATTERNS = 32


@dataclass(frozen=True, slots=True)
class NamedField:
    """A field that makes a reading rare."""

    field: str
    value: Any
    usual: tuple[float, float] | None
    """The range that the other fields suggest; None for a categorical field, and where the value is within it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How rare a reading is among usual ones."""

    score: float
    rarity: float
    because: list[NamedField]  # The fields that make it rare, the most telling first.


@dataclass(frozen=True, slots=True)
class _Marginal:
    """The marginal distribution of the mixture over some of the numbers."""

    means: Floats  # [components, numbers]
    precisions: Floats  # [components, numbers, numbers]
    log_weights: Floats  # [components], including the constant of each component's log density.

    def without(self, index: int) -> "_Marginal":
        """The marginal distribution over all of its numbers but one."""
        rest = np.arange(self.means.shape[1]) != index
        column, diagonal = self.precisions[:, index, rest], self.precisions[:, index, index]
        precisions = self.precisions[:, rest][:, :, rest] - column[:, :, None] * (column / diagonal[:, None])[:, None]
        return _Marginal(self.means[:, rest], precisions, self.log_weights + 0.5 * np.log(2 * np.pi / diagonal))


class RarityModel:
    """Says how rare readings are among usual ones. Raises ValueError for matrices that are not covariances."""

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
        for covariance, component in zip(self._covariances, usual.components, strict=True):
            for row, values in enumerate(component.covariance):
                covariance[row, : row + 1] = covariance[: row + 1, row] = values
        self._marginal = lru_cache(maxsize=_MAX_PATTERNS)(self._make_marginal)
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
        surprisals, unseen, known, z = self._read(values)
        score = self._score(surprisals, known, _log_density(self._marginal(known), z))
        rarity = MIN_RARITY if unseen else self.rarity_of(score)
        because = [] if rarity > max_rarity else self._explain(values, score)
        return Comparison(score, rarity, because)

    def _explain(self, values: Mapping[str, Any], score: float) -> list[NamedField]:
        """The fields without which the reading would be usual, each the most surprising one given those left."""
        surprisals, unseen, known, z = self._read(values)
        marginal, numbers = self._marginal(known), list(known)
        named = list[str]()
        while len(named) < _MAX_NAMED and (surprisals or numbers):
            name, index = max(surprisals, key=lambda name: (name in unseen, surprisals[name]), default=""), None
            if numbers and name not in unseen:
                excess = _conditional_surprisals(marginal, z) - self._expected[numbers]
                most = int(np.argmax(excess))
                if not surprisals or excess[most] > surprisals[name]:
                    name, index = self.usual.numbers[numbers[most]].name, most
            surprisal = surprisals.pop(name) if index is None else float(excess[index])
            if surprisal <= 0 and named:
                break
            named.append(name)
            if index is not None:
                marginal, z = marginal.without(index), np.delete(z, index)
                del numbers[index]
            score -= surprisal
            if self.rarity_of(score) >= _MIN_ORDINARY_RARITY and unseen.isdisjoint(surprisals):
                break
        return [self._named(name, values, numbers, marginal, z) for name in named]

    def score(self, values: Mapping[str, Any]) -> float:
        surprisals, _, known, z = self._read(values)
        return self._score(surprisals, known, _log_density(self._marginal(known), z))

    def conditional_surprisals(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The surprisal of each number, given all others."""
        _, _, known, z = self._read(values)
        surprisals = _conditional_surprisals(self._marginal(known), z)
        return {
            self.usual.numbers[index].name: float(surprisal) for index, surprisal in zip(known, surprisals, strict=True)
        }

    def _read(self, values: Mapping[str, Any]) -> tuple[dict[str, float], set[str], tuple[int, ...], Floats]:
        """The surprisals of values and gaps, less their means, and which of them no row of the training has.

        Also the indices of the known numbers, and their z-scores.
        """
        surprisals, unseen, known, numbers = dict[str, float](), set[str](), list[int](), list[float]()
        for index, field in enumerate(self.usual.numbers):
            number = number_of(value := values.get(field.name))
            if value is None:
                share = field.missing
            elif field.codes and (code := field.codes.get(value_text(value))) is not None:
                share = code
            elif number is None:
                share = field.odd
            elif _is_beyond(field, number):
                share = UNSEEN
            else:
                known.append(index)
                numbers.append(number)
                continue
            surprisals[field.name] = -math.log(share)
            if share <= UNSEEN:
                unseen.add(field.name)
        for category in self.usual.values:
            value = values.get(category.name)
            share = category.missing if value is None else category.values.get(value_text(value), category.other)
            surprisals[category.name] = -math.log(share) - category.expected
            if share <= UNSEEN:
                unseen.add(category.name)
        with np.errstate(over="ignore"):
            z = (np.array(numbers) - self._centers[known]) / self._scales[known] if known else np.zeros(0)
        return surprisals, unseen, tuple(known), compress(z)

    def _score(self, surprisals: Mapping[str, float], known: Sequence[int], log_density: float) -> float:
        unknown = float(self._expected.sum() - self._expected[list(known)].sum())
        return sum(surprisals.values()) + unknown - log_density

    def _named(
        self, name: str, values: Mapping[str, Any], known: Sequence[int], rest: _Marginal, z: Floats
    ) -> NamedField:
        """`known` are the numbers that are not named, `rest` is their distribution, and `z` their z-scores."""
        number = next((index for index, field in enumerate(self.usual.numbers) if field.name == name), None)
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
        reach = _USUAL_DEVIATIONS * deviation
        low, high = (field.center + field.scale * expand(end) for end in (mean - reach, mean + reach))
        # A value that no row had is not usual, whatever the other fields suggest.
        low, high = max(low, field.low), min(high, field.high)
        if low > high:
            low, high = field.low, field.high
        low, high = _rounded(low), _rounded(high)
        # A value within it is unusual only together with other fields, so the range would be no reason.
        given = number_of(values.get(name))
        is_within = given is not None and low <= given <= high
        return NamedField(name, _as_shown(values.get(name)), None if is_within else (low, high))


def _is_beyond(field: NumberField, number: float) -> bool:
    """Whether it is farther from the numbers of the training than these are from one another."""
    return not 2 * field.low - field.high <= number <= 2 * field.high - field.low


def compress(z: Floats) -> Floats:
    """Distances as they are up to _FAR, and logarithmic beyond it."""
    # A caller's number may be so large that its distance is infinite.
    z = np.clip(z, -_MAX_DISTANCE, _MAX_DISTANCE)
    size = np.abs(z)
    return np.sign(z) * np.where(size <= _FAR, size, _FAR + np.log1p(np.maximum(size - _FAR, 0)))


def expand(z: float) -> float:
    """The inverse of `compress`, up to a distance that no range needs."""
    return math.copysign(abs(z) if abs(z) <= _FAR else _FAR + math.expm1(min(abs(z) - _FAR, 20.0)), z)


def _as_shown(value: Any) -> Any:
    """A value as it came, but cut if it is a long text or document."""
    if value is None or isinstance(value, int | float):
        return value
    return cut(value if isinstance(value, str) else compact_json(value))


def value_text(value: Any) -> str:
    """How a value of a categorical field is spelled: 1, 1.0 and "1" are the same."""
    number = number_of(value)
    if number is not None:
        return repr(number)
    return value if isinstance(value, str) else compact_json(value)


def _log_sum(logs: Floats) -> Any:
    """The logarithm of the sum of exponentials over the first axis."""
    highest = logs.max(axis=0)
    return highest + np.log(np.exp(logs - highest).sum(axis=0))


def _log_density(marginal: _Marginal, z: Floats) -> float:
    if not len(z):
        return 0.0
    offsets = z - marginal.means
    squares = np.einsum("ki,kij,kj->k", offsets, marginal.precisions, offsets)
    return float(_log_sum(marginal.log_weights - 0.5 * squares))


def _conditional_surprisals(marginal: _Marginal, z: Floats) -> Floats:
    """The negative log density of each number, given all others."""
    offsets = z - marginal.means
    weighed = np.einsum("kij,kj->ki", marginal.precisions, offsets)
    diagonals = np.diagonal(marginal.precisions, axis1=1, axis2=2)
    logs = marginal.log_weights - 0.5 * (offsets * weighed).sum(axis=1)
    without = logs[:, None] + 0.5 * weighed**2 / diagonals + 0.5 * np.log(2 * np.pi / diagonals)
    surprisals: Floats = _log_sum(without) - _log_sum(logs)
    return surprisals


def _rounded(number: float) -> float:
    """To four digits, which is what a person reads."""
    return float(f"{number:.4g}")
