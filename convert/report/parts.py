"""PURE. The parts of quality.json, and what follows from their figures."""

from dataclasses import dataclass

from .intervals import difference_interval, share_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedOn:
    """The texts that the matrices were rounded for; sha256: hex, of their files."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What was judged. quantization: as in the manifest; bits_per_weight: of all tensors' data.

    target: whose kernels its types were chosen for, and its sizes computed. calibration: None = nothing was rounded for
    any text. adapter_sha256: hex, of its adapter.gguf; None = it has none. canaries: requests with recorded answers.
    """

    name: str
    version: int
    licence: str | None
    quantization: str
    bits_per_weight: float
    target: str
    calibration: TunedOn | None
    adapter_sha256: str | None
    canaries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the bundle is compared with: hex SHA-256 of its GGUF file, and the type of its weights, such as BF16."""

    file_sha256: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What both models read. positions: of how many tokens a prediction was compared."""

    name: str
    sha256: str
    tokens: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Kullback-Leibler divergence of the bundle from the reference over the positions, in nats.

    error: standard error of the mean. top1_agreement: share of positions at which both hold the same token for the most
    probable.
    """

    mean: float
    error: float | None
    median: float
    p90: float
    p99: float
    max: float
    top1_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """ratio: own / reference; low, high: its 95 % interval."""

    ratio: float
    low: float | None
    high: float | None
    own: float
    reference: float

    @property
    def is_undecided(self) -> bool:
        """Whether chance alone may have made the ratio another one than 1."""
        return self.low is not None and self.high is not None and self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Share of right answers to a task's examples.

    gained, lost: how many the bundle alone answers right, and how many the reference alone.
    """

    name: str
    kind: str
    examples: int
    accuracy: float
    reference_accuracy: float | None
    gained: int | None = None
    lost: int | None = None

    @property
    def right(self) -> int:
        """How many are right."""
        return round(self.accuracy * self.examples)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return share_interval(self.right, self.examples)

    @property
    def difference_interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy less the reference's; None where the pairs are not known."""
        if self.gained is None or self.lost is None:
            return None
        return difference_interval(self.gained, self.lost, self.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """divergence: mean, in nats, where this tensor alone is quantized and all others are the reference's.

    is_scaled: it was not measured with this type, but is what was measured with another one, scaled by how much less
    the tensor's products with its inputs are changed.
    """

    name: str
    type: str
    bytes: int
    divergence: float | None
    is_scaled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One way to quantize the model. bytes: of its file, computed; divergence: mean, in nats, measured.

    ram_bytes: computed, of what is copied out of the file into anonymous memory for the target's kernels when it is
    loaded; context and buffers come on top. is_own: this is the bundle itself.
    """

    name: str
    bytes: int
    ram_bytes: int | None
    divergence: float | None
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """PREDICTED, not measured: tokens/s of one request's answer if nothing but the memory's bandwidth limits it.

    bandwidth_gb_s: 10^9 bytes per second, as published in `source`.
    """

    board: str
    bandwidth_gb_s: float
    source: str
    tokens_per_s: float
