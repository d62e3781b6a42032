"""How a model is trained."""

from dataclasses import dataclass

MOST_STEPS, LEAST_STEPS = 1600, 200
# Of a row: time and memory grow with them.
MOST_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """width: of the hidden state. steps: of `batch` rows each. seed: of weights, batches and masking.

    cosines: how freely the tokens of a number's bins differ, see _Embedding. text_tokens: of texts and answers, at
    most. mask_share: of the numbers that a step leaves out, so that the model can do without any of them.
    noise: readings that are unlike the rows, beside the rows of each batch.
    labelled_weight: how much more often than a teacher's row a labelled one is drawn.
    """

    width: int = 128
    layers: int = 2
    cosines: int = 2
    text_tokens: int = 2048
    steps: int = MOST_STEPS
    batch: int = 32
    learning_rate: float = 1.4e-3
    weight_decay: float = 0.05
    attention_dropout: float = 0.1
    label_smoothing: float = 0.02
    mask_share: float = 0.03
    noise: int = 8
    labelled_weight: float = 4.0
    seed: int = 0
