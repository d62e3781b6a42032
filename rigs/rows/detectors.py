"""Compares `unusual` with other detectors, on six sets of scikit-learn's data and two of a simulated compressor.

Every detector learns from usual readings alone. Figures are means over the seeds, with bootstrap intervals.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor

from convert.agent import RarityModel
from convert.learning.usual import learn_usual
from edge_agent.core.terminal import aligned
from rigs.bench.figures import verdict
from rigs.rows.compressor import Floats, break_sensors, compressor, compressor_faults, readings

# Learns from usual rows with a seed, and returns a function that scores others, the rarer the higher.
Detector = Callable[[Floats, int], Callable[[Floats], Floats]]
BOOTSTRAPS = 200
MIN_SETS = 6


@dataclass(frozen=True, slots=True)
class Set:
    name: str
    usual: Floats  # The rows to learn from.
    later: Floats  # Further usual rows, to compare with `others`.
    others: Floats


def sets(seed: int) -> Iterator[Set]:
    draw = np.random.default_rng(seed)
    for name, data, is_usual in _bundled():
        usual = draw.permutation(data[is_usual])
        cut = int(0.6 * len(usual))
        yield Set(name, usual[:cut], usual[cut:], data[~is_usual])
    patients = draw.permutation(datasets.load_diabetes(scaled=False).data)
    broken, _, _ = break_sensors(draw, patients[300:], patients)
    yield Set("diabetes, a number broken", patients[:300], patients[300:], broken)
    usual, later = compressor(draw, 360), compressor(draw, 600)
    yield Set("compressor, six faults", usual, later, compressor_faults(draw, compressor(draw, 600)))
    broken, _, _ = break_sensors(draw, compressor(draw, 900), later)
    yield Set("compressor, sensors", usual, later, broken)


def _bundled() -> Iterator[tuple[str, Floats, npt.NDArray[np.bool_]]]:
    iris, wine, breast, digits = (
        load() for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_digits)
    )
    yield "iris, versicolor", iris.data, iris.target == 1
    yield "wine, the second", wine.data, wine.target == 1
    yield "breast cancer, benign", breast.data, breast.target == 1
    yield "digits, 0 to 4", digits.data, digits.target <= 4
    yield "digits, 8", digits.data, digits.target == 8


def _ours(usual: Floats, seed: int) -> Callable[[Floats], Floats]:
    learnt = RarityModel(learn_usual(readings(usual), None, seed))
    return lambda rows: np.array([learnt.score(reading) for reading in readings(rows)])


def _standardized(usual: Floats) -> Callable[[Floats], Floats]:
    low, center, high = np.quantile(usual, [0.25, 0.5, 0.75], axis=0)
    scale = np.where(high > low, (high - low) / 1.349, np.maximum(usual.std(axis=0), 1e-9))
    return lambda rows: (rows - center) / scale


def _scikit_mixture(usual: Floats, seed: int) -> Callable[[Floats], Floats]:
    scaled = _standardized(usual)
    mixture = GaussianMixture(n_components=4, reg_covar=0.1, random_state=seed).fit(scaled(usual))
    return lambda rows: -mixture.score_samples(scaled(rows))


def _forest(usual: Floats, seed: int) -> Callable[[Floats], Floats]:
    forest = IsolationForest(n_estimators=200, random_state=seed).fit(usual)
    return lambda rows: -forest.score_samples(rows)


def _local_outlier_factor(usual: Floats, _seed: int) -> Callable[[Floats], Floats]:
    scaled = _standardized(usual)
    neighbours = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(scaled(usual))
    return lambda rows: -neighbours.score_samples(scaled(rows))


def _ecod(usual: Floats, _seed: int) -> Callable[[Floats], Floats]:
    """How far out each number is by itself, summed in three ways, by empirical cumulative distributions (Li 2022)."""
    ordered, count = np.sort(usual, axis=0), len(usual)
    skewed_left = ((usual - usual.mean(axis=0)) ** 3).sum(axis=0) < 0

    def score(rows: Floats) -> Floats:
        below = np.stack([np.searchsorted(ordered[:, at], rows[:, at], "right") for at in range(rows.shape[1])], axis=1)
        under = np.stack([np.searchsorted(ordered[:, at], rows[:, at], "left") for at in range(rows.shape[1])], axis=1)
        left = -np.log(np.maximum(below, count / (count + 1)) / count)
        right = -np.log(np.maximum(count - under, count / (count + 1)) / count)
        skewed = np.where(skewed_left, left, right).sum(axis=1)
        sums: Floats = np.maximum(np.maximum(left.sum(axis=1), right.sum(axis=1)), skewed)
        return sums

    return score


DETECTORS: dict[str, Detector] = {
    "unusual": _ours,
    "isolation forest": _forest,
    "local outlier factor": _local_outlier_factor,
    "ECOD": _ecod,
    "scikit-learn's mixture": _scikit_mixture,
}
# scikit-learn's mixture is shown for comparison only, because it is nearly the product's own detector.
RIVALS = ("isolation forest", "local outlier factor", "ECOD")


def check_detectors(seeds: Sequence[int]) -> bool:
    """Whether the area under the ROC curve is, within its interval, at least the best rival's on enough sets."""
    areas: dict[str, dict[str, list[float]]] = {}
    resampled: dict[str, list[Floats]] = {}
    for seed in seeds:
        for part in sets(seed):
            rows = np.concatenate([part.later, part.others])
            is_other = np.repeat([False, True], [len(part.later), len(part.others)])
            for name, detector in DETECTORS.items():
                scores = detector(part.usual, seed)(rows)
                areas.setdefault(part.name, {}).setdefault(name, []).append(roc_auc_score(is_other, scores))
                if name == "unusual":
                    resampled.setdefault(part.name, []).append(_resampled_areas(scores, is_other, seed))
    lines = [("area under the curve", *DETECTORS, "95 % interval", "")]
    reached = 0
    for name, set_areas in areas.items():
        means = {detector: float(np.mean(detector_areas)) for detector, detector_areas in set_areas.items()}
        low, high = np.quantile(np.mean(resampled[name], axis=0), [0.025, 0.975])
        is_reached = high >= max(means[rival] for rival in RIVALS)
        reached += is_reached
        shown = (f"{mean:.3f}" for mean in means.values())
        lines.append((name, *shown, f"{low:.3f} to {high:.3f}", verdict(is_reached)))
    print(*aligned(lines), sep="\n")
    is_met = reached >= MIN_SETS
    print(f"at least the best usual detector on {reached} of {len(areas)} sets: {verdict(is_met)}")
    return is_met


def _resampled_areas(scores: Floats, is_other: npt.NDArray[np.bool_], seed: int) -> Floats:
    draw, usual, others = np.random.default_rng(seed), scores[~is_other], scores[is_other]
    labels = np.repeat([False, True], [len(usual), len(others)])
    return np.array(
        [
            roc_auc_score(labels, np.concatenate([draw.choice(usual, len(usual)), draw.choice(others, len(others))]))
            for _ in range(BOOTSTRAPS)
        ]
    )
