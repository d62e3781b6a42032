"""How far a model's predictions are from those of a reference: KL divergence, agreement, perplexity ratio.

At each position the reference's TOP most probable tokens are kept, and DRAWN of the others, sampled by probability.
These samples estimate the others' part of the KL divergence without bias. Counted as one token, the others would add
too little (log sum inequality): 5 % of the mean for a vocabulary of 152 000.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..quantize.ggml import Floats
from .cache import read_arrays, write_arrays
from .runner import Runner

TOP = 512
DRAWN = 64
_SEED = 0
# This share of a text is context only, as in llama.cpp's perplexity tool.
CONTEXT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Predictions:
    """The reference's predictions after each token of one text, from `first` to the last but one."""

    tokens: list[int]
    first: int
    ids: npt.NDArray[np.int32]  # The most probable tokens [positions, TOP].
    logs: Floats  # Their log-probabilities.
    drawn: npt.NDArray[np.int32]  # Some of the other tokens [positions, DRAWN].
    drawn_logs: Floats  # Their log-probabilities.
    next_logs: Floats  # Log-probabilities of the tokens that follow in the text [positions].


@dataclass(frozen=True, slots=True)
class Differences:
    """Arrays of one number per position."""

    divergence: npt.NDArray[np.float64]  # KL divergence in nats.
    agrees: npt.NDArray[np.float64]  # 1 if the most probable token is the same, else 0.
    next_log_change: npt.NDArray[np.float64]  # next_log minus the reference's.
    next_log: npt.NDArray[np.float64]  # Log-probability of the token that follows.

    @property
    def mean(self) -> float:
        return float(self.divergence.mean())


def predict(
    runner: Runner,
    texts: Sequence[list[int]],
    *,
    context_share: float = CONTEXT_SHARE,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Predictions]:
    """The predictions of the reference for each text. `progress` is called with the share of the texts that is done."""
    predictions = []
    random = np.random.default_rng(_SEED)
    for at, tokens in enumerate(texts):
        progress(at / len(texts))
        first = int(len(tokens) * context_share)
        logits = runner.logits(tokens, first)[:-1]
        top = min(TOP, logits.shape[1])
        ids = np.argpartition(logits, -top, axis=1)[:, -top:].astype(np.int32)
        total = _log_sum(logits)
        drawn = _draw(logits, ids, random)
        predictions.append(
            Predictions(
                tokens=tokens,
                first=first,
                ids=ids,
                logs=_logs(logits, ids, total).astype(np.float32),
                drawn=drawn,
                drawn_logs=_logs(logits, drawn, total).astype(np.float32),
                next_logs=(_following(logits, tokens) - total).astype(np.float32),
            )
        )
    return predictions


def compare(
    runner: Runner, reference: Sequence[Predictions], *, progress: Callable[[float], None] = lambda _share: None
) -> Differences:
    """The model against the reference on the same texts. `progress` is as for `predict`."""
    parts = []
    for at, known in enumerate(reference):
        progress(at / len(reference))
        logits = runner.logits(known.tokens, known.first)[:-1]
        total = _log_sum(logits)
        divergence = _divergence(known, _logs(logits, known.ids, total), _logs(logits, known.drawn, total))
        following = _following(logits, known.tokens) - total
        best = np.take_along_axis(known.ids, known.logs.argmax(axis=1)[:, None], axis=1)[:, 0]
        agrees = logits.argmax(axis=1) == best
        parts.append((divergence, agrees, following - known.next_logs, following))
    return Differences(*np.concatenate(parts, axis=1))


def save(path: Path, predictions: Sequence[Predictions]) -> None:
    """Writes about 5 kB per position."""
    arrays = {
        f"{at}.{field.name}": np.array(getattr(one, field.name))
        for at, one in enumerate(predictions)
        for field in fields(Predictions)
    }
    write_arrays(path, arrays)


def load(path: Path) -> list[Predictions] | None:
    if (arrays := read_arrays(path)) is None:
        return None
    names = [field.name for field in fields(Predictions)]
    kept = [{name: arrays[f"{at}.{name}"] for name in names} for at in range(len(arrays) // len(names))]
    return [Predictions(**one | {"tokens": one["tokens"].tolist(), "first": int(one["first"])}) for one in kept]


def _draw(logits: Floats, top: npt.NDArray[np.int32], random: np.random.Generator) -> npt.NDArray[np.int32]:
    """DRAWN of each row's tokens outside its `top`, with replacement; none if there are no others."""
    rows, vocabulary = logits.shape
    drawn = np.empty((rows, DRAWN if top.shape[1] < vocabulary else 0), np.int32)
    if drawn.size == 0:
        return drawn
    # One from each of DRAWN equal shares of their probability, which scatters less than independent samples.
    places = (np.arange(DRAWN) + random.random((rows, 1))) / DRAWN
    for row in range(rows):
        shares = np.exp(logits[row] - logits[row].max())
        shares[top[row]] = 0
        cumulative = np.cumsum(shares, dtype=np.float64)
        drawn[row] = np.minimum(np.searchsorted(cumulative, places[row] * cumulative[-1], side="right"), vocabulary - 1)
    return drawn


def _logs(logits: Floats, ids: npt.NDArray[np.int32], total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logs: npt.NDArray[np.float64] = np.take_along_axis(logits, ids, axis=1) - total[:, None]
    return logs


def _following(logits: Floats, tokens: Sequence[int]) -> Floats:
    following = np.array(tokens[len(tokens) - len(logits) :])
    return np.take_along_axis(logits, following[:, None], axis=1)[:, 0]


def _log_sum(logits: Floats) -> npt.NDArray[np.float64]:
    highest = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]


def _divergence(
    known: Predictions, own: npt.NDArray[np.float64], own_drawn: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """KL divergence in nats at each position. `own` and `own_drawn` are the model's own log-probabilities."""
    logs = known.logs.astype(np.float64)
    shares = np.exp(logs)
    divergence: npt.NDArray[np.float64] = (shares * (logs - own)).sum(axis=1)
    if known.drawn.size:
        # Rounding may make it negative.
        rest = np.maximum(1 - shares.sum(axis=1), 0)
        divergence += rest * (known.drawn_logs - own_drawn).mean(axis=1)
    return divergence
