"""Compares edge-convert with upstream on a real checkpoint: `python -m rigs.parity CHECKPOINT [--sharded DIR]`.

Unquantized types against upstream's convert_hf_to_gguf.py, quantized ones against `llama_model_quantize`. Exit code 1
on any difference that is not explained in comparison.py. The first run downloads llama-cpp-python's sources and torch.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert.quantize.recipe import Quantization
from rigs.machine import checkpoint_path
from tests.convert.gguf_reading import read_gguf
from tests.convert.native_quantizer import quantize_natively

from .comparison import Comparison, compare
from .tokenization import sample_hash
from .upstream import Upstream
from .variants import VARIANTS, write_variant

PLAIN = (Quantization.BF16, Quantization.F16)
ROW = "{:34} {:>8} {:>14} {:>6} {:>6} {:>9} {:>9}  {}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.parity", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path, help="checkpoint in one file")
    parser.add_argument("--sharded", type=Path, help="the same checkpoint in shards")
    parser.add_argument(
        "--work", type=Path, default=Path("build/parity"), help="working folder (default: build/parity)"
    )
    parser.add_argument(
        "--python", type=Path, help="interpreter with torch and transformers, instead of a new environment"
    )
    parser.add_argument("--skip-plain", action="store_true", help="leave out the unquantized types")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args()
    out = given.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    upstream = Upstream(given.work, given.python)
    rows: list[dict[str, Any]] = []

    def report(name: str, comparison: Comparison, facts: dict[str, Any]) -> None:
        measured = {field: facts[field] for field in ("seconds", "peak_rss_bytes")}
        rows.append({"case": name, **asdict(comparison), **measured})
        if given.json:
            return
        if len(rows) == 1:
            print(ROW.format("case", "tensors", "bytes equal", "keys", "diffs", "seconds", "peak MB", "result"))
        counts = (comparison.tensors, comparison.tensor_bytes, comparison.keys, len(comparison.differences))
        verdict = "DIFFERENT" if comparison.differences else "equal"
        print(
            ROW.format(name, *counts, f"{facts['seconds']:.1f}", facts["peak_rss_bytes"] // 10**6, verdict), flush=True
        )
        for difference in comparison.differences[:10]:
            print(f"    {difference}")

    for form, checkpoint in (("whole", given.checkpoint), ("sharded", given.sharded)):
        if checkpoint is None:
            continue
        for quantization in () if given.skip_plain else PLAIN:
            kind = quantization.value
            facts = _convert(checkpoint, out / "ours", kind)
            upstream.convert(checkpoint, out / "theirs.gguf", kind)
            comparison = compare(read_gguf(out / "ours" / "model.gguf"), read_gguf(out / "theirs.gguf"))
            report(f"{kind} {form} / convert_hf_to_gguf", comparison, facts)
    for name, change in VARIANTS.items():
        write_variant(given.checkpoint, out / name, change)
        facts = _convert(out / name, out / "ours", "bf16")
        upstream.convert(out / name, out / "theirs.gguf", "bf16", vocab_only=True)
        comparison = compare(read_gguf(out / "ours" / "model.gguf"), read_gguf(out / "theirs.gguf"), with_tensors=False)
        pre = read_gguf(out / "ours" / "model.gguf").values()["tokenizer.ggml.pre"]
        found = sample_hash(out / "ours" / "model.gguf", upstream.sample_text())
        if found not in upstream.sample_hashes(pre):
            comparison.differences.append(f"llama.cpp tokenizes upstream's sample to {found}, not to a hash of {pre}")
        report(f"keys of {name} / convert_hf_to_gguf", comparison, facts)
    _convert(given.checkpoint, out / "source", "bf16")
    for quantization in (kind for kind in Quantization if kind is not Quantization.AUTO):
        if quantization in PLAIN:
            continue
        facts = _convert(given.checkpoint, out / "ours", quantization.value)
        quantize_natively(out / "source" / "model.gguf", out / "theirs.gguf", quantization.file_type)
        comparison = compare(read_gguf(out / "ours" / "model.gguf"), read_gguf(out / "theirs.gguf"))
        report(f"{quantization.value} / llama_model_quantize", comparison, facts)
    shutil.rmtree(out)
    explained = sorted({text for row in rows for text in row["explained"]})
    is_equal = not any(row["differences"] for row in rows)
    if given.json:
        print(json.dumps({"equal": is_equal, "rows": rows}, indent=1))
    else:
        print("\nintended differences:", *explained, sep="\n    ")
        print("equal" if is_equal else "DIFFERENT")
    return 0 if is_equal else 1


def _convert(checkpoint: Path, bundle: Path, kind: str) -> dict[str, Any]:
    """Runs the converter as a process of its own, with its own peak memory."""
    command = [sys.executable, "-m", "convert", str(checkpoint), "--out", str(bundle), "--type", kind]
    command += ["--force", "--json", "--no-canaries"]
    started = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with {result.returncode}: {result.stderr}")
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts | {"seconds": time.monotonic() - started}


if __name__ == "__main__":
    sys.exit(main())
