"""Compares edge-convert with upstream on a real checkpoint: `python -m rigs.parity CHECKPOINT`.

Unquantized types against upstream's convert_hf_to_gguf.py, quantized ones against `llama_model_quantize`. Exit code 1
on any difference that is not explained in comparison.py. The first run downloads llama-cpp-python's sources and torch.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from convert.quantize.recipe import Quantization
from rigs.llama_sources import run_program
from rigs.machine import checkpoint_path
from rigs.parity.comparison import Comparison, compare
from rigs.parity.upstream import Upstream, sample_hash
from rigs.parity.variants import VARIANTS, write_variant
from tests.convert.gguf_reading import read_gguf
from tests.convert.native_quantizer import quantize_natively

PLAIN = (Quantization.BF16, Quantization.F16)
QUANTIZED = tuple(kind for kind in Quantization if kind not in (*PLAIN, Quantization.AUTO))
ROW = "{:34} {:>8} {:>14} {:>6} {:>6} {:>9} {:>9}  {}"


class Parity:
    """Converts with both programs into `out`, compares the files and prints a row for each pair."""

    def __init__(self, upstream: Upstream, out: Path) -> None:
        self._upstream = upstream
        self._out = out
        self._ours, self._theirs = out / "ours" / "model.gguf", out / "theirs.gguf"
        self.comparisons: list[Comparison] = []

    def plain(self, checkpoint: Path, kind: Quantization) -> None:
        facts = convert(checkpoint, self._out / "ours", kind)
        self._upstream.convert(checkpoint, self._theirs, kind.value)
        self._report(f"{kind.value} / convert_hf_to_gguf", self._compared(), facts)

    def variant(self, name: str, checkpoint: Path) -> None:
        """The keys of a checkpoint of another form, and what llama.cpp makes of its vocabulary."""
        write_variant(checkpoint, self._out / name, VARIANTS[name])
        facts = convert(self._out / name, self._out / "ours", Quantization.BF16)
        self._upstream.convert(self._out / name, self._theirs, "bf16", vocab_only=True)
        comparison = self._compared(with_tensors=False)
        pre = read_gguf(self._ours).values()["tokenizer.ggml.pre"]
        found = sample_hash(self._ours, self._upstream.sample_text())
        if found not in self._upstream.sample_hashes(pre):
            comparison.differences.append(f"llama.cpp tokenizes upstream's sample to {found}, not to a hash of {pre}")
        self._report(f"keys of {name} / convert_hf_to_gguf", comparison, facts)

    def quantized(self, checkpoint: Path, source: Path, kind: Quantization) -> None:
        facts = convert(checkpoint, self._out / "ours", kind)
        quantize_natively(source, self._theirs, kind.file_type)
        self._report(f"{kind.value} / llama_model_quantize", self._compared(), facts)

    def _compared(self, *, with_tensors: bool = True) -> Comparison:
        return compare(read_gguf(self._ours), read_gguf(self._theirs), with_tensors=with_tensors)

    def _report(self, case: str, found: Comparison, facts: dict[str, float]) -> None:
        self.comparisons.append(found)
        counts = (found.tensors, found.tensor_bytes, found.keys, len(found.differences))
        cost = (f"{facts['seconds']:.1f}", f"{facts['peak_rss_bytes'] / 1e6:.0f}")
        print(ROW.format(case, *counts, *cost, "DIFFERENT" if found.differences else "equal"), flush=True)
        for difference in found.differences[:10]:
            print(f"    {difference}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.parity", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path, help="a Hugging Face folder")
    parser.add_argument("--work", type=Path, default=Path("build/parity"), help="default: %(default)s")
    given = parser.parse_args()
    out: Path = given.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    parity = Parity(Upstream(given.work), out)
    print(ROW.format("case", "tensors", "bytes equal", "keys", "diffs", "seconds", "peak MB", "result"))
    for kind in PLAIN:
        parity.plain(given.checkpoint, kind)
    for name in VARIANTS:
        parity.variant(name, given.checkpoint)
    convert(given.checkpoint, out / "source", Quantization.BF16)
    for kind in QUANTIZED:
        parity.quantized(given.checkpoint, out / "source" / "model.gguf", kind)
    shutil.rmtree(out)
    explained = sorted({text for one in parity.comparisons for text in one.explained})
    print("\nintended differences:", *explained, sep="\n    ")
    is_equal = not any(one.differences for one in parity.comparisons)
    print("equal" if is_equal else "DIFFERENT")
    return 0 if is_equal else 1


def convert(checkpoint: Path, bundle: Path, kind: Quantization) -> dict[str, float]:
    """Converts in a process of its own, so that its peak memory is its own. Raises SystemExit if it fails."""
    command = [sys.executable, "-m", "convert", str(checkpoint), "--out", str(bundle), "--type", kind.value]
    facts: dict[str, float] = json.loads(run_program([*command, "--force", "--json", "--no-canaries"]))
    return facts


if __name__ == "__main__":
    sys.exit(main())
