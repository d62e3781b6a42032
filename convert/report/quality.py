"""quality.json of a bundle: how far it is from the unquantized model, and what its bytes were spent on.

It holds no times, paths or host names. Sizes are in bytes, divergences in nats; null is unknown, 0 was measured.
"""

from dataclasses import asdict, dataclass

from ..write.manifest import canonical_json

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTexts:
    """The texts that the matrices were rounded for. `sha256` (hex) is of their files."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How a part of a vocabulary reads texts."""

    name: str
    lines: int
    covered: int  # Lines that are read as before, because all of their tokens are in the part.
    tokens_before: int  # The tokens of all lines with the whole vocabulary.
    tokens: int  # The tokens of all lines with the part.

    @property
    def growth(self) -> float:
        """The share by which the number of tokens grows."""
        return self.tokens / self.tokens_before - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    tokens: int
    of: int  # How many the checkpoint has.
    coverage: Coverage | None = None  # None if nothing was cut.


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    name: str
    version: int
    licence: str | None
    quantization: str
    bits_per_weight: float
    target: str  # The kernels that its types were chosen for.
    calibration: CalibrationTexts
    adapter_sha256: str | None  # The hash of adapter.gguf in hex; None if there is none.
    canaries: int  # The number of recorded answers.
    vocabulary: Vocabulary
    bytes_per_token: int  # Bytes of weights that each step reads.
    recovered: bool  # Whether weights were trained after rounding.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The GGUF file that the bundle is compared with: its SHA-256 (hex) and the type of its weights."""

    file_sha256: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTexts:
    name: str
    sha256: str
    tokens: int
    positions: int  # The number of tokens whose prediction was compared.


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Kullback-Leibler divergence from the reference over all positions, in nats."""

    mean: float
    error: float  # The standard error of the mean.
    median: float
    p90: float
    p99: float
    max: float
    top1_agreement: float  # The share of positions where both have the same most probable token.


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    ratio: float  # own / reference.
    low: float  # The lower end of the 95 % interval of the ratio.
    high: float  # Its upper end.
    own: float
    reference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccuracy:
    name: str
    kind: str
    examples: int
    accuracy: float
    reference_accuracy: float
    gained: int  # How many examples only the bundle answers right.
    lost: int  # How many only the reference answers right.


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorQuality:
    name: str
    type: str
    bytes: int
    divergence: float | None  # The mean in nats with only this tensor quantized; None if it was not measured.
    is_scaled: bool = False  # Whether it was measured with another type, and scaled by the loss of this one.

    @property
    def kind(self) -> str:
        """Its name within its layer, such as attn_q; that of the embedding and of the output matrix."""
        return self.name.removesuffix(".weight").rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """The number of its layer; None for the embedding and the output matrix."""
        return int(self.name.split(".")[1]) if self.name.startswith("blk.") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    name: str
    bytes: int  # The size of its file.
    ram_bytes: int  # What loading copies into anonymous memory for the target's kernels, computed.
    divergence: float  # The mean in nats, measured.
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model against its reference: all that `edge-convert evaluate` measures, and the `quality` of a manifest."""

    reference: Reference
    texts: EvaluationTexts
    divergence: Divergence
    perplexity: Perplexity
    tasks: tuple[TaskAccuracy, ...] = ()

    def encode(self) -> bytes:
        return canonical_json({"schema": SCHEMA} | asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The content of quality.json."""

    bundle: Bundle
    comparison: Comparison
    tensors: tuple[TensorQuality, ...]
    sizes: tuple[Size, ...]

    def encode(self) -> bytes:
        value = asdict(self)
        return canonical_json({"schema": SCHEMA} | value.pop("comparison") | value)
