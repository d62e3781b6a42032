"""Conversions in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.cli import main
from convert.conversion import Job, decide_types, open_source, write_bundle
from convert.quantize.recipe import Quantization
from convert.write.bundle import new_bundle
from tests.helpers.processes import Ended

Cli = Callable[..., Ended]
NAMED = [quantization for quantization in Quantization if quantization is not Quantization.AUTO]


def ignore_progress(_what: str, _share: float) -> None:
    """A Progress that nobody looks at."""


def run(*words: object) -> int:
    """The exit code of a command line. No canaries are recorded unless some are asked for."""
    is_plain = {"--type", "--budget"} & {*words} and not {"--canaries", "--dry-run"} & {*words}
    try:
        return main([*map(str, words), *(["--no-canaries"] if is_plain else [])])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else -1


def convert(
    checkpoint: Path,
    bundle: Path,
    quantization: Quantization = Quantization.Q8_0,
    *,
    replace: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Writes a bundle without canaries; returns its manifest. `options` are fields of Job."""
    job = Job(checkpoint=checkpoint, quantization=quantization, has_canaries=False, **options)
    with new_bundle(bundle, replace=replace) as folder, open_source(job) as source:
        plan, tuned = decide_types(job, source, ignore_progress)
        write_bundle(job, source, plan, tuned, folder=folder, progress=ignore_progress)
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return manifest


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}
