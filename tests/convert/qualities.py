"""A quality.json as a 24-layer Qwen2.5-0.5B would have it, with real shapes and sizes and plausible divergences."""

from convert.report.quality import (
    Bundle,
    CalibrationTexts,
    Comparison,
    Coverage,
    Divergence,
    EvaluationTexts,
    Perplexity,
    Quality,
    Reference,
    Size,
    TaskAccuracy,
    TensorQuality,
    Vocabulary,
)

HIDDEN, FEED_FORWARD, KEYS, VOCABULARY = 896, 4864, 128, 151936
BYTES_PER_WEIGHT = {"Q8_0": 1.0625, "IQ4_NL": 0.5625}
WEIGHTS = {
    "attn_q": HIDDEN * HIDDEN,
    "attn_k": HIDDEN * KEYS,
    "attn_v": HIDDEN * KEYS,
    "attn_output": HIDDEN * HIDDEN,
    "ffn_gate": HIDDEN * FEED_FORWARD,
    "ffn_up": HIDDEN * FEED_FORWARD,
    "ffn_down": HIDDEN * FEED_FORWARD,
}


def make_tensors(layers: int = 24) -> tuple[TensorQuality, ...]:
    """Tensors of which later kinds diverge more, and so do the first layers."""
    tensors = [tensor("token_embd.weight", "Q8_0", VOCABULARY * HIDDEN, 3.1e-4)]
    for layer in range(layers):
        for at, (kind, weights) in enumerate(WEIGHTS.items(), 1):
            chosen = "Q8_0" if kind == "attn_v" else "IQ4_NL"
            tensors.append(tensor(f"blk.{layer}.{kind}.weight", chosen, weights, 2e-5 * at**1.5 / (1 + layer / 4)))
    return tuple(tensors)


def tensor(name: str, kind: str, weights: int, divergence: float) -> TensorQuality:
    """A tensor with this number of weights, and its divergence with three digits."""
    nbytes = round(weights * BYTES_PER_WEIGHT[kind])
    return TensorQuality(name=name, type=kind, bytes=nbytes, divergence=float(f"{divergence:.3g}"))


def make_quality(layers: int = 24) -> Quality:
    """A quality with all its parts."""
    tensors = make_tensors(layers)
    nbytes = sum(tensor.bytes for tensor in tensors) + 5_900_000
    return Quality(
        bundle=Bundle(
            name="pump model",
            version=3,
            licence="apache-2.0",
            quantization="IQ4_NL-MIX",
            bits_per_weight=5.921,
            target="armv8.2-dotprod",
            calibration=CalibrationTexts(name="factory+general", sha256="ca" * 32),
            adapter_sha256="ad" * 32,
            canaries=8,
            vocabulary=Vocabulary(
                tokens=65_536,
                of=151_936,
                coverage=Coverage(name="evaluation", lines=766, covered=448, tokens_before=22_644, tokens=23_343),
            ),
            bytes_per_token=286_000_000,
            recovered=True,
        ),
        comparison=Comparison(
            reference=Reference(file_sha256="5c" * 32, type="BF16"),
            texts=EvaluationTexts(name="evaluation", sha256="e7" * 32, tokens=24_576, positions=24_552),
            divergence=Divergence(
                mean=0.0214, error=0.0006, median=0.0061, p90=0.0498, p99=0.243, max=3.17, top1_agreement=0.9381
            ),
            perplexity=Perplexity(ratio=1.0117, low=1.0082, high=1.0153, own=14.27, reference=14.105),
            tasks=(
                TaskAccuracy(
                    name="pump state",
                    kind="classify",
                    examples=400,
                    accuracy=0.9375,
                    reference_accuracy=0.9425,
                    gained=3,
                    lost=5,
                ),
            ),
        ),
        tensors=tensors,
        sizes=(
            Size(name="Q8_0", bytes=531_068_000, ram_bytes=74_200_000, divergence=0.00092, is_own=False),
            Size(name="Q4_K_M", bytes=397_808_000, ram_bytes=72_000_000, divergence=0.0352, is_own=False),
            Size(name="IQ4_NL", bytes=352_400_000, ram_bytes=71_000_000, divergence=0.0548, is_own=False),
            Size(name="Q4_0", bytes=352_970_000, ram_bytes=275_000_000, divergence=0.0871, is_own=False),
            Size(name="this bundle", bytes=nbytes, ram_bytes=71_300_000, divergence=0.0214, is_own=True),
        ),
    )
