"""How far a model's predictions are from those of a reference: KL divergence, agreement, perplexity ratio.

Of the reference's prediction at each position the TOP most probable tokens are kept, and what the others have together:
KL divergence of that is a lower bound (log sum inequality), and in the mean nearly all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .runner import Floats, Runner

TOP = 512
# So much of a text is only read: so does llama.cpp's perplexity tool.
READ_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of one text, after each token from `first` on but the last, which nobody knows the next one of.

    ids: [positions, TOP], the most probable tokens; logs: [positions, TOP], their log-probabilities; next_logs:
    [positions], that of the token which follows in the text.
    """

    tokens: list[int]
    first: int
    ids: npt.NDArray[np.int32]
    logs: Floats
    next_logs: Floats


@dataclass(frozen=True, slots=True)
class Divergence:
    """Arrays of one number per position. divergence: nats; agrees: whether the most probable token is the same;
    next_log_change: the log-probability of the token that follows, less the reference's."""

    divergence: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]
    next_log_change: npt.NDArray[np.float64]
    next_log: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.divergence.mean())


def predict(
    runner: Runner,
    texts: Sequence[list[int]],
    *,
    read_share: float = READ_SHARE,
    progress: Callable[[], None] = lambda: None,
) -> list[Predictions]:
    """What the reference predicts."""
    found = []
    for tokens in texts:
        first = int(len(tokens) * read_share)
        logits = runner.logits(tokens, first)[:-1]
        top = min(TOP, logits.shape[1])
        ids = np.argpartition(logits, -top, axis=1)[:, -top:].astype(np.int32)
        total = _log_sum(logits)
        logs = np.take_along_axis(logits, ids, axis=1) - total[:, None]
        following = _following(logits, tokens) - total
        found.append(Predictions(tokens, first, ids, logs.astype(np.float32), following.astype(np.float32)))
        progress()
    return found


def compare(
    runner: Runner, reference: Sequence[Predictions], progress: Callable[[], None] = lambda: None
) -> Divergence:
    """The model against the reference on the same texts."""
    parts: list[tuple[npt.NDArray[np.float64], ...]] = []
    for known in reference:
        logits = runner.logits(known.tokens, known.first)[:-1]
        total = _log_sum(logits)
        own = np.take_along_axis(logits, known.ids, axis=1) - total[:, None]
        following = _following(logits, known.tokens) - total
        best = np.take_along_axis(known.ids, known.logs.argmax(axis=1)[:, None], axis=1)[:, 0]
        agrees = logits.argmax(axis=1) == best
        parts.append((_divergence(known.logs, own), agrees, following - known.next_logs, following))
        progress()
    divergence, agrees, change, following = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Divergence(divergence, agrees.astype(np.bool_), change, following)


def save(path: Path, predictions: Sequence[Predictions]) -> None:
    """About 4 kB per position."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for at, one in enumerate(predictions):
        arrays |= {f"{at}.tokens": np.array(one.tokens, np.int32), f"{at}.ids": one.ids}
        arrays |= {f"{at}.first": np.array(one.first)}
        arrays |= {f"{at}.logs": one.logs, f"{at}.next_logs": one.next_logs}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path) -> list[Predictions]:
    """Raises OSError, ValueError or KeyError if `save` did not write it."""
    with np.load(path, allow_pickle=False) as arrays:
        return [
            Predictions(
                tokens=arrays[f"{at}.tokens"].tolist(),
                first=int(arrays[f"{at}.first"]),
                ids=arrays[f"{at}.ids"],
                logs=arrays[f"{at}.logs"],
                next_logs=arrays[f"{at}.next_logs"],
            )
            for at in range(len(arrays.files) // 5)
        ]


def _following(logits: Floats, tokens: Sequence[int]) -> Floats:
    """The logit of the token that follows at each position."""
    following = np.array(tokens[len(tokens) - len(logits) :])
    return np.take_along_axis(logits, following[:, None], axis=1)[:, 0]


def _log_sum(logits: Floats) -> npt.NDArray[np.float64]:
    """Log of the sum of exponentials of each row."""
    highest = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]


def _divergence(reference: Floats, own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL divergence in nats of each row of log-probabilities; the tokens that are not there count as one."""
    known = reference.astype(np.float64)
    shares = np.exp(known)
    # Rounding may leave less than nothing.
    rest = np.maximum(1 - shares.sum(axis=1), 1e-12)
    own_rest = np.maximum(1 - np.exp(own).sum(axis=1), 1e-12)
    found: npt.NDArray[np.float64] = (shares * (known - own)).sum(axis=1) + rest * np.log(rest / own_rest)
    return found
