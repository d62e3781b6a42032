"""quality.json of a bundle: how far it is from the unquantized model, and what its bytes were spent on.

It holds no times, paths or host names. Sizes are in bytes, divergences in nats; null is unknown, 0 was measured.
"""

from dataclasses import asdict, dataclass

from ..write.manifest import canonical_json

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedOn:
    """The texts that the matrices were rounded for; sha256 (hex) of their files."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How a part of a vocabulary reads texts. covered: lines whose tokens are all in it, and are the same as before.

    tokens_before: of all lines, with the whole vocabulary; tokens: with the part.
    """

    name: str
    lines: int
    covered: int
    tokens_before: int
    tokens: int

    @property
    def growth(self) -> float:
        """The share by which the number of tokens grows."""
        return self.tokens / self.tokens_before - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """tokens: how many the model has. of: how many the checkpoint has; coverage: None = nothing was cut."""

    tokens: int
    of: int
    coverage: Coverage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The bundle itself. target: the kernels that its types were chosen for.

    bytes_per_token: of weights, which each step reads. recovered: whether weights were trained after rounding.
    adapter_sha256: hex, of adapter.gguf; None = there is none. canaries: the number of recorded answers.
    """

    name: str
    version: int
    licence: str | None
    quantization: str
    bits_per_weight: float
    target: str
    calibration: TunedOn
    adapter_sha256: str | None
    canaries: int
    vocabulary: Vocabulary
    bytes_per_token: int
    recovered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The GGUF file that the bundle is compared with: its SHA-256 (hex) and the type of its weights."""

    file_sha256: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTexts:
    """The texts that both models read. positions: the number of tokens whose prediction was compared."""

    name: str
    sha256: str
    tokens: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Kullback-Leibler divergence from the reference over all positions, in nats.

    error: standard error of the mean. top1_agreement: share of positions where both have the same most probable token.
    """

    mean: float
    error: float
    median: float
    p90: float
    p99: float
    max: float
    top1_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """ratio: own / reference; low, high: its 95 % interval."""

    ratio: float
    low: float
    high: float
    own: float
    reference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccuracy:
    """Share of right answers to a task's examples.

    gained, lost: how many examples only the bundle answers right, and how many only the reference.
    """

    name: str
    kind: str
    examples: int
    accuracy: float
    reference_accuracy: float
    gained: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorQuality:
    """divergence: mean, in nats, with only this tensor quantized; None = not measured.

    is_scaled: measured with another type, and scaled by the loss of this one.
    """

    name: str
    type: str
    bytes: int
    divergence: float | None
    is_scaled: bool = False

    @property
    def kind(self) -> str:
        """Its name within its layer, such as attn_q; that of the embedding and of the output matrix."""
        return self.name.removesuffix(".weight").rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """None for the embedding and the output matrix."""
        return int(self.name.split(".")[1]) if self.name.startswith("blk.") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One way to quantize the model. bytes: of its file; divergence: mean, in nats, measured.

    ram_bytes: computed, what loading copies into anonymous memory for the target's kernels.
    """

    name: str
    bytes: int
    ram_bytes: int
    divergence: float
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
        """Canonical JSON."""
        return canonical_json({"schema": SCHEMA} | asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The content of quality.json."""

    bundle: Bundle
    comparison: Comparison
    tensors: tuple[TensorQuality, ...]
    sizes: tuple[Size, ...]

    def encode(self) -> bytes:
        """Canonical JSON."""
        value = asdict(self)
        return canonical_json({"schema": SCHEMA} | value.pop("comparison") | value)
