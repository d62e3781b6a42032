"""What plain `--type` makes of the same checkpoint: measured, for the report."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .board_cost import ram_bytes
from .conversion import Options, Plan, make_plan, processors, write_model
from .evaluation import evaluate, judged_by
from .kept import figure, read_json, write_json
from .measure.texts import Texts
from .progress import Progress
from .read.checkpoint import Checkpoint
from .reference import TYPE as REFERENCE_TYPE
from .report.quality import Size
from .tune.candidates import Target
from .weights import ggml
from .weights.quantize import Quantizer
from .weights.recipe import Quantization
from .write.manifest import MODEL_FILE

PLAIN = (Quantization.Q4_0, Quantization.IQ4_NL, Quantization.Q4_K_M, Quantization.Q8_0)


def plain_sizes(
    checkpoint: Checkpoint,
    own: Plan,
    *,
    target: Target,
    reference: Path,
    adapters: Sequence[Path],
    texts: Texts,
    home: Path,
    progress: Progress,
) -> list[Size]:
    """The types of PLAIN as `--type` alone makes them, rounded without regard to any text.

    own: the plan of what they stand beside; adapters: applied to all of them and to the reference. Each is written, run
    on the texts and removed again; its divergence is kept in `home`, the reference's own folder.
    """
    kept = home / f"plain-{judged_by(texts, adapters)}.json"
    divergences = _divergences(read_json(kept))
    sizes: list[Size] = []
    for at, quantization in enumerate(PLAIN):
        progress(f"comparing with {quantization.value}", at / len(PLAIN))
        plan = make_plan(checkpoint, Options(quantization, own.name, own.version, own.licence))
        if quantization.name not in divergences:
            divergences[quantization.name] = _divergence(plan, reference, adapters, texts, home)
            write_json(kept, divergences)
        sizes.append(
            Size(
                name=f"--type {quantization.value}",
                bytes=plan.file_bytes,
                ram_bytes=ram_bytes(plan, target),
                divergence=divergences[quantization.name],
                is_own=False,
            )
        )
    return sizes


def _divergence(plan: Plan, reference: Path, adapters: Sequence[Path], texts: Texts, home: Path) -> float:
    with TemporaryDirectory(dir=home, prefix="plain-") as folder:
        model = Path(folder) / MODEL_FILE
        with Quantizer(ggml.load(), processors()) as quantizer:
            write_model(model, plan, quantizer)
        quality = evaluate(
            model,
            reference,
            REFERENCE_TYPE,
            texts,
            adapters=adapters,
            reference_adapters=adapters,
            work=home,
            threads=processors(),
            progress=lambda _what, _share: None,
        )
    assert quality.divergence is not None
    return quality.divergence.mean


def _divergences(value: Any) -> dict[str, float]:
    try:
        return {name: figure(divergence) for name, divergence in value.items()}
    except (ValueError, TypeError, OverflowError, AttributeError):
        return {}
