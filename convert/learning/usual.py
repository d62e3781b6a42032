"""Learns what usual readings look like: a Gaussian mixture over their numbers, and probabilities of other values.

Covariances are shrunk, because few rows cannot tell all of a mixture's. The number of components and the shrinkage are
those that give held-out rows the highest density.
"""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..agent import (
    MAX_BYTES,
    MAX_COMPONENTS,
    UNSEEN,
    Comparison,
    Component,
    NumberField,
    RarityModel,
    Tail,
    UsualReadings,
    ValueField,
    compress,
    number_of,
    value_text,
)
from .outliers import ordinary_numbers, without_stray_codes
from .table import MIN_NUMBER_SHARE

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Values = Mapping[str, Any]  # The fields of a reading.

# A field of numbers with fewer distinct values is categorical, such as a switch.
_MIN_DISTINCT = 3
# The mixture is fitted to the rows that have all numbers if they are at least this share.
_MIN_COMPLETE_SHARE = 0.5
# The values of a categorical field that are kept; all others count together.
_MAX_VALUES = 100
# The error codes that are kept, the most frequent ones.
_MAX_CODES = 20
# A gap between the numbers of a field is wide if it is this share of their spread, and so many times as wide as others.
_WIDE_SHARE, _WIDE_TIMES = 0.1, 10.0
# A state has at least so many rows. Up to this share, its rows are in all parts.
_MIN_STATE_ROWS, _MAX_STATE_SHARE = 10, 1 / 3
# A number belongs to a state, and is no error code, if at least this share of the rows that have it are of the state.
_MIN_OF_STATE = 0.9
_COMPONENTS = (1, 2, 4, 8)
_SHRINKAGES = (0.01, 0.1, 0.3)
_MIN_ROWS_PER_COMPONENT = 10
# No direction has a smaller variance, in units of the scale, because sensors are rounded.
_MIN_VARIANCE = 1e-4
_MAX_EM_STEPS = 100
# Components and shrinkage are chosen on at most this many rows.
_CHOOSING_ROWS = 1000
_PARTS, _CHOOSING_PARTS = 5, 3
# The tail is fitted to this share of the rows, the rarest ones.
_TAIL_SHARE, _MAX_SHAPE = 0.1, 0.9
# With fewer rows, no tail is fitted.
TAIL_ROWS = 100
# The rarest rows are this share of all, but no fewer than are to be shown. Those of one machine that are at most so
# many rows apart are one run, because some readings of a fault look usual.
_RAREST_SHARE, RUN_GAP = 0.02, 3
_MAX_SCORES = 10_000
# About how long a covariance is in the file, half of which may be covariances.
_COVARIANCE_BYTES = 14
# Numbers are rounded to this many significant digits, so that the file is small.
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class _Mixture:
    weights: Floats
    means: Floats
    covariances: Floats

    def log_densities(self, z: Floats) -> Floats:
        """The logarithm of the density at each row, [rows]."""
        return _log_sum(self.log_shares(z))[:, 0]

    def responsibilities(self, z: Floats) -> Floats:
        """How probably each row is of each component, [rows, components]."""
        logs = self.log_shares(z)
        return np.exp(logs - _log_sum(logs))

    def log_shares(self, z: Floats) -> Floats:
        """The logarithm of what each component adds to the density, [rows, components]."""
        triangles = np.linalg.cholesky(self.covariances)
        inverses = np.linalg.inv(triangles)
        volumes = np.log(np.diagonal(triangles, axis1=1, axis2=2)).sum(axis=1)
        constants = np.log(self.weights) - volumes - 0.5 * z.shape[1] * math.log(2 * math.pi)
        # One component after another, because all offsets at once may not fit into memory.
        whitened = ((z - mean) @ inverse.T for mean, inverse in zip(self.means, inverses, strict=True))
        logs: Floats = constants - 0.5 * np.stack([np.einsum("rn,rn->r", each, each) for each in whitened], axis=1)
        return logs


def _log_sum(logs: Floats) -> Floats:
    """The logarithm of the sum of each row's exponentials, [rows, 1]."""
    highest = logs.max(axis=1, keepdims=True)
    logarithms: Floats = highest + np.log(np.exp(logs - highest).sum(axis=1, keepdims=True))
    return logarithms


def learn_usual(
    rows: Sequence[Values],
    blocks: Sequence[int] | None = None,
    seed: int = 0,
    *,
    labels: Sequence[str] | None = None,
    is_sample: Sequence[bool] | None = None,
    max_bytes: int = MAX_BYTES,
) -> UsualReadings:
    """Learns from usual readings, in the order of time if they have one.

    Args:
        blocks: For each row the number of its group, whose rows are held out together. If None, the parts are random.
        labels: The label of each row. Components begin with rows of one label, unless there are too many labels.
        is_sample: Which rows say how rare a reading is. If None, all do.
        max_bytes: About how large the result may be; but there is one component at least.
    """
    learnt, _ = learn_and_find_rarest(
        rows, blocks, seed, labels=labels, is_sample=is_sample, max_bytes=max_bytes, count=0
    )
    return learnt


def learn_and_find_rarest(
    rows: Sequence[Values],
    blocks: Sequence[int] | None,
    seed: int,
    *,
    labels: Sequence[str] | None = None,
    is_sample: Sequence[bool] | None = None,
    max_bytes: int = MAX_BYTES,
    places: Sequence[int] = (),
    count: int,
) -> tuple[UsualReadings, list[tuple[list[int], Comparison]]]:
    """Learns, and finds so many runs of rows that are the rarest for models that have not seen them.

    `places` holds a number for each row, near those of its neighbours. Each run comes with its rarest row, compared.
    """
    draw = np.random.default_rng(seed)
    parts = draw.permutation(len(rows)) % _PARTS if blocks is None else np.array(blocks) % _PARTS
    with threadpool_limits(1):
        names = [name for name in _names(rows) if _is_number(name, rows)]
        in_state = in_other_states(names, rows)
        parts = _spread_out(in_state, parts)
        numbers = [_number_field(name, rows, in_state) for name in names]
        codes = {number for field in numbers for code in field.codes if (number := number_of(code)) is not None}
        numbers = [_number_field(name, rows, in_state, codes) for name in names]
        values = tuple(_value_field(name, rows) for name in _names(rows) if name not in names)
        z, is_fitted, is_clean = _matrix(rows, numbers, in_state)
        max_count = min(MAX_COMPONENTS, max_bytes // (max(len(numbers), 1) ** 2 * _COVARIANCE_BYTES))
        starts = _starts(labels, max_count) if labels is not None else np.zeros(len(rows), dtype=int)
        components, shrinkage = _choose(z[is_fitted], starts[is_fitted], max_count, draw, seed) if numbers else (0, 0.0)
        models = [
            _readings(numbers, values, _fit(z[chosen], starts[chosen], components, shrinkage, seed), z[chosen])
            for chosen in (is_fitted & (parts != part) for part in range(_PARTS + 1))
        ]
        held_out = [RarityModel(model) for model in models]
        by_row = np.array([held_out[part].score(row) for part, row in zip(parts, rows, strict=True)])
    scores = np.sort(by_row[is_clean if is_sample is None else is_clean & np.array(is_sample)]).tolist()
    if len(scores) > _MAX_SCORES:
        scores = [scores[index] for index in np.linspace(0, len(scores) - 1, _MAX_SCORES).astype(int)]
    # Rounded up, so that a reading that comes again is at most as rare as it was.
    rounded = tuple(math.ceil(score * 10_000) / 10_000 for score in scores)
    *others, learnt = (model.model_copy(update={"scores": rounded, "tail": _tail(scores)}) for model in models)
    found = np.argsort(-by_row, kind="stable")[: max(count, int(_RAREST_SHARE * len(rows)))].tolist() if count else []
    runs = _runs(found, places)[:count]
    return learnt, [(run, RarityModel(others[parts[run[0]]]).compare(rows[run[0]])) for run in runs]


def _runs(rarest: Sequence[int], places: Sequence[int]) -> list[list[int]]:
    """Puts neighbours together. The rarest come first in `rarest`, in each run and among the runs."""
    runs: list[list[int]] = []
    for at in sorted(rarest, key=places.__getitem__):
        if runs and places[at] - places[runs[-1][-1]] <= RUN_GAP:
            runs[-1].append(at)
        else:
            runs.append([at])
    rank = {at: number for number, at in enumerate(rarest)}
    return sorted((sorted(run, key=rank.__getitem__) for run in runs), key=lambda run: rank[run[0]])


def _names(rows: Sequence[Values]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _is_number(name: str, rows: Sequence[Values]) -> bool:
    values = [row[name] for row in rows if name in row]
    numbers = [number for value in values if (number := number_of(value)) is not None]
    return len(numbers) >= MIN_NUMBER_SHARE * len(values) and len(set(numbers)) >= _MIN_DISTINCT


def in_other_states(names: Sequence[str], rows: Sequence[Values]) -> Bools:
    """Which rows are from another state of the machine than most, such as off. Several of their numbers are then apart.

    Beside one number that is apart, gaps count, too. One alone more likely means a broken sensor.
    """
    apart, missing = np.zeros((2, len(rows)), dtype=int)
    for name in names:
        numbers = _numbers(name, rows)
        known = numbers[~np.isnan(numbers)]
        distinct = np.unique(known)
        low, high = np.quantile(ordinary_numbers(np.sort(known)), (0.05, 0.95))
        gaps = np.diff(distinct)
        is_wide = (gaps > _WIDE_SHARE * (high - low)) & (gaps > _WIDE_TIMES * np.median(gaps))
        cluster = np.searchsorted(distinct[1:][is_wide], numbers, side="right")
        is_main = cluster == np.argmax(np.bincount(cluster[~np.isnan(numbers)]))
        apart += ~is_main & ~np.isnan(numbers)
        missing += np.isnan(numbers)
    in_state: Bools = (apart > 0) & (apart + missing > 1)
    return in_state & (in_state.sum() >= _MIN_STATE_ROWS)


def _numbers(name: str, rows: Sequence[Values]) -> Floats:
    """The number of each row in this field; NaN where it has none."""
    return np.array([math.nan if (number := number_of(row.get(name))) is None else number for row in rows])


def _spread_out(in_state: Bools, parts: Indices) -> Indices:
    """The parts; a state in few rows is in each of them, because a model that has never seen it says nothing of it."""
    spread = parts.copy()
    if in_state.mean() <= _MAX_STATE_SHARE:
        spread[in_state] = np.arange(np.count_nonzero(in_state)) % _PARTS
    return spread


def _number_field(
    name: str, rows: Sequence[Values], in_state: Bools, codes_elsewhere: Collection[float] = ()
) -> NumberField:
    """Texts, and numbers far from all others of their field and of another state, are codes if several rows have them.

    A text that only one row has counts as an unknown one.
    """
    given = [row[name] for row in rows if name in row]
    by_row = _numbers(name, rows)
    numbers = np.sort(by_row[~np.isnan(by_row)])
    ordinary = ordinary_numbers(numbers, codes_elsewhere)
    usual = [*ordinary[[0, -1]]]
    of_state = by_row[in_state & ~np.isnan(by_row)]
    counts = Counter(of_state.tolist())
    # A code comes in every state. Among the numbers of a standstill, nearly all of them 0, it would not be far enough.
    others = by_row[~in_state]
    known_codes = {*codes_elsewhere, *others[(others < ordinary[0]) | (others > ordinary[-1])].tolist()}
    of_state = without_stray_codes(np.sort(of_state), known_codes, ordinary)
    if len(of_state):
        usual += [*ordinary_numbers(of_state, codes_elsewhere)[[0, -1]]]
    # Where the machine has several states, one of them may be far from all others.
    usual += [
        number
        for number, count in counts.items()
        if count >= max(_MIN_STATE_ROWS, _MIN_OF_STATE * np.count_nonzero(numbers == number))
    ]
    least, greatest = float(min(usual)), float(max(usual))
    far = Counter(value_text(number) for number in numbers.tolist() if not least <= number <= greatest)
    texts = Counter(value_text(value) for value in given if number_of(value) is None)
    codes = {code: count for code, count in (far + texts).most_common(_MAX_CODES) if count > 1}
    unknown = sum(count for text, count in texts.items() if text not in codes)
    low, center, high = np.quantile(ordinary, [0.25, 0.5, 0.75])
    deviation = float(ordinary.std())
    scale = float(high - low) / 1.349
    # Where most values are the same, the quartiles say nothing.
    scale = scale if scale > 0.05 * deviation else deviation
    # Where all values are the same, such as those of a switch beside error codes, any scale will do.
    scale = scale or 1.0
    return NumberField(
        name=name,
        center=float(center),
        scale=scale,
        low=least,
        high=greatest,
        missing=_share(len(rows) - len(given), len(rows)),
        odd=_share(unknown, len(rows)),
        expected=0.0,
        codes={code: _share(count, len(rows)) for code, count in codes.items()},
    )


def _share(count: int, rows: int) -> float:
    """How probable a state is that `count` of the rows have."""
    return (count + 0.5) / (rows + 1) if count else UNSEEN


def _value_field(name: str, rows: Sequence[Values]) -> ValueField:
    """Values that only one row has count as unknown ones (Good-Turing), so remarks say nothing and a new mode much."""
    counts = Counter(value_text(row[name]) for row in rows if name in row)
    total = len(rows) + 2
    kept = {value: count for value, count in counts.most_common(_MAX_VALUES) if count > 1}
    shares = {value: count / total for value, count in kept.items()}
    missing = _share(len(rows) - counts.total(), len(rows))
    other = _share(counts.total() - sum(kept.values()), len(rows))
    chances = [*shares.values(), other, missing]
    expected = -sum(chance * math.log(chance) for chance in chances)
    return ValueField(name=name, values=shares, other=other, missing=missing, expected=expected)


def _matrix(rows: Sequence[Values], numbers: Sequence[NumberField], in_state: Bools) -> tuple[Floats, Bools, Bools]:
    """The z-scores [rows, numbers], missing ones as 0; the rows to fit the mixture to; and those without a glitch.

    The mixture is fitted to rows that have all numbers, or are from another state. A glitch, a stray number that no
    other row has, is neither learnt from nor judged on, because beside it all else would look usual.
    """
    z = np.zeros((len(rows), len(numbers)))
    is_fitted, is_clean = np.ones((2, len(rows)), dtype=np.bool_)
    for column, field in enumerate(numbers):
        for index, row in enumerate(rows):
            number = number_of(row.get(field.name))
            if number is not None and field.low <= number <= field.high:
                z[index, column] = (number - field.center) / field.scale
            else:
                is_fitted[index] = False
                is_clean[index] &= number is None or value_text(number) in field.codes
    is_fitted |= in_state & is_clean
    # If most rows lack a number, too few would be complete.
    return compress(z), is_fitted if is_fitted.mean() >= _MIN_COMPLETE_SHARE else is_clean, is_clean


def _starts(labels: Sequence[str], max_count: int) -> Indices:
    """For each row the number of its label, that of all rare labels together; all 0 if there are too many labels."""
    counts = Counter(labels)
    frequent = [label for label, count in counts.items() if count >= _MIN_ROWS_PER_COMPONENT]
    if len(frequent) + 1 > max_count:
        return np.zeros(len(labels), dtype=int)
    numbers = {label: number for number, label in enumerate(frequent)}
    return np.array([numbers.get(label, len(frequent)) for label in labels])


def _choose(z: Floats, starts: Indices, max_count: int, draw: np.random.Generator, seed: int) -> tuple[int, float]:
    """The number of components and the shrinkage that give held-out rows, but the rarest 1 %, the highest density."""
    chosen = np.sort(draw.permutation(len(z))[:_CHOOSING_ROWS])
    z, starts = z[chosen], starts[chosen]
    parts = draw.permutation(len(z)) % _CHOOSING_PARTS

    def density(components: int, shrinkage: float) -> float:
        densities = [
            _fit(z[parts != part], starts[parts != part], components, shrinkage, seed).log_densities(z[parts == part])
            for part in range(_CHOOSING_PARTS)
        ]
        return float(np.sort(np.concatenate(densities))[len(z) // 100 :].mean())

    max_count = min(max_count, len(z) // _MIN_ROWS_PER_COMPONENT) // len(np.unique(starts))
    fitting = [count for count in _COMPONENTS if count == 1 or count <= max_count]
    candidates = [(count, shrinkage) for count in fitting for shrinkage in _SHRINKAGES]
    return max(candidates, key=lambda candidate: density(*candidate))


def _clusters(z: Floats, starts: Indices, components: int, seed: int) -> Indices:
    """For each row the number of its k-means cluster; the rows of each start have `components` of them."""
    from scipy.cluster.vq import kmeans2  # noqa: PLC0415 - it takes a third of the start of every other command

    clusters = np.zeros(len(z), dtype=int)
    for number, start in enumerate(np.unique(starts)):
        rows = z[starts == start]
        with warnings.catch_warnings(action="ignore"):  # Where many rows are equal, clusters may be empty.
            _, nearest = kmeans2(rows, min(components, len(rows)), minit="++", rng=np.random.default_rng(seed))
        clusters[starts == start] = number * components + nearest
    return clusters


def _fit(z: Floats, starts: Indices, components: int, shrinkage: float, seed: int) -> _Mixture:
    """Fits the mixture by expectation maximization, starting from clusters."""
    if not components:
        return _Mixture(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0, 0)))
    pooled = np.cov(z.T, bias=True).reshape(z.shape[1], z.shape[1])
    target = (1 - shrinkage) * pooled + shrinkage * np.diag(np.diagonal(pooled)) + _MIN_VARIANCE * np.eye(z.shape[1])
    shares = np.eye(components * len(np.unique(starts)))[_clusters(z, starts, components, seed)]
    before = -math.inf
    for _ in range(_MAX_EM_STEPS):
        mixture = _maximize(z, shares, target, shrinkage)
        logs = mixture.log_shares(z)
        densities = _log_sum(logs)
        density = float(densities.mean())
        if density - before < 1e-4:
            break
        before, shares = density, np.exp(logs - densities)
    return mixture


def _maximize(z: Floats, shares: Floats, target: Floats, shrinkage: float) -> _Mixture:
    """The M step. Each covariance is shrunk to that of all rows, which weighs as `shrinkage` rows for each number."""
    counts = shares.sum(axis=0) + 1e-3
    means = (shares.T @ z) / counts[:, None]
    pull = shrinkage * z.shape[1]
    scatters = []
    for share, mean in zip(shares.T, means, strict=True):
        offsets = z - mean
        scatters.append((share[:, None] * offsets).T @ offsets)
    covariances = (np.array(scatters) + pull * target) / (counts + pull)[:, None, None]
    return _Mixture(counts / counts.sum(), means, covariances + _MIN_VARIANCE * np.eye(z.shape[1]))


def _readings(
    numbers: Sequence[NumberField], values: tuple[ValueField, ...], mixture: _Mixture, z: Floats
) -> UsualReadings:
    components = tuple(
        Component(
            weight=_rounded(weight),
            mean=tuple(map(_rounded, mean)),
            covariance=tuple(tuple(map(_rounded, row[: index + 1])) for index, row in enumerate(covariance)),
        )
        for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    )
    expected = _expected_surprisals(mixture, z)
    numbers = [
        field.model_copy(update={"expected": _rounded(mean)}) for field, mean in zip(numbers, expected, strict=True)
    ]
    return UsualReadings(numbers=tuple(numbers), values=values, components=components, scores=(0.0,), tail=None)


def _expected_surprisals(mixture: _Mixture, z: Floats) -> Iterator[float]:
    """The mean surprisal of each number, given all others.

    It is half of 1 + log(2 pi variance), weighted by component.
    """
    if not z.shape[1]:
        return
    variances = [1 / np.diagonal(np.linalg.inv(covariance)) for covariance in mixture.covariances]
    weights = mixture.responsibilities(z).mean(axis=0)
    yield from (weights @ (0.5 * (1 + np.log(2 * np.pi * np.array(variances))))).tolist()


def _tail(scores: Sequence[float]) -> Tail | None:
    """Fits the tail of rising scores by probability-weighted moments (Hosking and Wallis 1987); None for too few."""
    if len(scores) < TAIL_ROWS:
        return None
    count = int(_TAIL_SHARE * len(scores))
    threshold = scores[-count - 1]
    excesses = np.array(scores[-count:]) - threshold
    mean = float(excesses.mean())
    weighed = float((excesses * (1 - (np.arange(1, count + 1) - 0.35) / count)).mean())
    if mean <= 0 or mean <= 2 * weighed:
        return None
    shape = min(max(2 - mean / (mean - 2 * weighed), 0.0), _MAX_SHAPE)
    scale = _rounded(mean * (1 - shape))
    return Tail(threshold=_rounded(threshold), share=count / len(scores), scale=scale, shape=_rounded(shape))


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
