"""How a model is trained."""

from dataclasses import dataclass

MAX_STEPS = 1600
# The fewest steps, even where `--minutes` allows fewer still.
MIN_STEPS = 200
# Time and memory grow with the tokens of a row.
MAX_TOKENS = 256
# With more passes over rows whose answers are numbers, a model learns few rows by heart.
MAX_NUMBER_EPOCHS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    width: int = 128  # Elements of the hidden state.
    layers: int = 2
    cosines: int = 2  # How freely the tokens of a number's bins differ; _Embedding explains it.
    text_tokens: int = 2048  # Maximum of tokens for texts and answers.
    steps: int = MAX_STEPS
    batch: int = 32  # Rows per step.
    learning_rate: float = 1.4e-3
    weight_decay: float = 0.05
    attention_dropout: float = 0.1
    label_smoothing: float = 0.02
    mask_share: float = 0.03  # The share of numbers that a step hides, so that the model can do without any of them.
    labelled_weight: float = 4.0  # How much more often a labelled row is drawn than one that a teacher answered.
    seed: int = 0  # Decides the first weights, the batches and the masking.
