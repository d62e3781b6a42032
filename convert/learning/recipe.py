"""How a model is trained."""

from dataclasses import dataclass

MAX_STEPS = 1600
# However little time there is.
MIN_STEPS = 200
# The most tokens of a row, because time and memory grow with them.
MAX_TOKENS = 256


# The most often that a training passes over rows whose answers are numbers: with more, it learns few rows by heart.
NUMBER_PASSES = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    width: int = 128  # Elements of the hidden state.
    layers: int = 2
    cosines: int = 2  # How freely the tokens of a number's bins differ, see _Embedding.
    text_tokens: int = 2048  # The most tokens for texts and answers.
    steps: int = MAX_STEPS
    batch: int = 32  # Rows of a step.
    learning_rate: float = 1.4e-3
    weight_decay: float = 0.05
    attention_dropout: float = 0.1
    label_smoothing: float = 0.02
    mask_share: float = 0.03
    """The share of numbers that a step leaves out, so that the model can do without any of them."""
    noise: int = 8  # Readings unlike the rows that each step adds to its rows.
    labelled_weight: float = 4.0  # How much more often a labelled row is drawn than one that a teacher answered.
    seed: int = 0  # Decides the first weights, the batches and the masking.
