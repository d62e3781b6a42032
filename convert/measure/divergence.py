"""How far a model's predictions are from those of a reference: KL divergence, agreement, perplexity ratio.

Of the reference's prediction at each position the TOP most probable tokens are kept, and DRAWN of the others, drawn as
often as they are probable. What the others add to the KL divergence is estimated from these without bias; as one token,
they would add too little (log sum inequality), which made 5 % of the mean for a vocabulary of 152 000.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .runner import Floats, Runner

TOP = 512
DRAWN = 64
_SEED = 0
_DIGEST_BYTES = 32
# So much of a text is only read: so does llama.cpp's perplexity tool.
READ_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of one text, after each token from `first` on but the last, which nobody knows the next one of.

    ids: [positions, TOP], the most probable tokens; drawn: [positions, DRAWN], some of the others; logs, drawn_logs:
    their log-probabilities; next_logs: [positions], that of the token which follows in the text.
    """

    tokens: list[int]
    first: int
    ids: npt.NDArray[np.int32]
    logs: Floats
    drawn: npt.NDArray[np.int32]
    drawn_logs: Floats
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
    random = np.random.default_rng(_SEED)
    for tokens in texts:
        first = int(len(tokens) * read_share)
        logits = runner.logits(tokens, first)[:-1]
        top = min(TOP, logits.shape[1])
        ids = np.argpartition(logits, -top, axis=1)[:, -top:].astype(np.int32)
        total = _log_sum(logits)
        drawn = _draw(logits, ids, random)
        found.append(
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
        divergence = _divergence(known, _logs(logits, known.ids, total), _logs(logits, known.drawn, total))
        following = _following(logits, known.tokens) - total
        best = np.take_along_axis(known.ids, known.logs.argmax(axis=1)[:, None], axis=1)[:, 0]
        agrees = logits.argmax(axis=1) == best
        parts.append((divergence, agrees, following - known.next_logs, following))
        progress()
    divergence, agrees, change, following = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Divergence(divergence, agrees.astype(np.bool_), change, following)


def save(path: Path, predictions: Sequence[Predictions]) -> None:
    """About 5 kB per position. Its hash comes first: that of the format sees not all damage."""
    arrays = {
        f"{at}.{field.name}": np.array(getattr(one, field.name))
        for at, one in enumerate(predictions)
        for field in fields(Predictions)
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    data = file.getbuffer()
    path.write_bytes(hashlib.sha256(data).digest() + data)


def load(path: Path) -> list[Predictions]:
    """Raises OSError or ValueError if `save` did not write it."""
    names = [field.name for field in fields(Predictions)]
    content = memoryview(path.read_bytes())
    digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError("it is not as it was written")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        kept = [{name: arrays[f"{at}.{name}"] for name in names} for at in range(len(arrays.files) // len(names))]
    if not all(np.isfinite(array).all() for one in kept for array in one.values()):
        raise ValueError("what is kept holds a number that is none")
    return [Predictions(**one | {"tokens": one["tokens"].tolist(), "first": int(one["first"])}) for one in kept]


def _draw(logits: Floats, top: npt.NDArray[np.int32], random: np.random.Generator) -> npt.NDArray[np.int32]:
    """DRAWN of each row's tokens that are none of its `top`, with replacement; none if there are no others."""
    rows, vocabulary = logits.shape
    drawn = np.empty((rows, DRAWN if top.shape[1] < vocabulary else 0), np.int32)
    if drawn.size == 0:
        return drawn
    # One in each of DRAWN equal shares of what they have together, which scatters less than drawing freely.
    places = (np.arange(DRAWN) + random.random((rows, 1))) / DRAWN
    for row in range(rows):
        shares = np.exp(logits[row] - logits[row].max())
        shares[top[row]] = 0
        heaped = np.cumsum(shares, dtype=np.float64)
        drawn[row] = np.minimum(np.searchsorted(heaped, places[row] * heaped[-1], side="right"), vocabulary - 1)
    return drawn


def _logs(logits: Floats, ids: npt.NDArray[np.int32], total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-probabilities of these tokens of each row."""
    found: npt.NDArray[np.float64] = np.take_along_axis(logits, ids, axis=1) - total[:, None]
    return found


def _following(logits: Floats, tokens: Sequence[int]) -> Floats:
    """The logit of the token that follows at each position."""
    following = np.array(tokens[len(tokens) - len(logits) :])
    return np.take_along_axis(logits, following[:, None], axis=1)[:, 0]


def _log_sum(logits: Floats) -> npt.NDArray[np.float64]:
    """Log of the sum of exponentials of each row."""
    highest = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64)) + highest[:, 0]


def _divergence(
    known: Predictions, own: npt.NDArray[np.float64], own_drawn: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """KL divergence in nats at each position. own, own_drawn: the model's log-probabilities of the known tokens."""
    logs = known.logs.astype(np.float64)
    shares = np.exp(logs)
    found: npt.NDArray[np.float64] = (shares * (logs - own)).sum(axis=1)
    if known.drawn.size:
        # Rounding may leave less than nothing.
        rest = np.maximum(1 - shares.sum(axis=1), 0)
        found += rest * (known.drawn_logs - own_drawn).mean(axis=1)
    return found
