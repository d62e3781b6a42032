"""Conversions without a command line."""

import json
from pathlib import Path
from typing import Any

from convert.conversion import Job, decide_types, open_source, write_bundle
from convert.quantize.recipe import Quantization

NAMED = [quantization for quantization in Quantization if quantization is not Quantization.AUTO]


def ignore_progress(_what: str, _share: float) -> None:
    """A Progress that nobody looks at."""


def convert(
    checkpoint: Path,
    bundle: Path,
    quantization: Quantization = Quantization.Q8_0,
    *,
    replace: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Writes a bundle without canaries; returns its manifest. options: fields of Job."""
    job = Job(checkpoint=checkpoint, quantization=quantization, has_canaries=False, **options)
    with open_source(job) as source:
        plan, tuned = decide_types(job, source, ignore_progress)
        write_bundle(job, source, plan, tuned, out=bundle, progress=ignore_progress, replace=replace)
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return manifest
