"""The aarch64 wheelhouse on emulated cores, in roots of Debian 12 and 13. Needs root; about 20 minutes on 2 cores.

The cores are a Cortex-A72 (Raspberry Pi 4), a Cortex-A76 (Pi 5, RK3588), a Neoverse V1 and qemu's newest. On each, the
worker must load the right kernels, repack what they need and answer like this machine. Emulated time says nothing about
a board. Exit code 1 if anything differs.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.quantize.ggml import GgmlType
from convert.quantize.targets import Target, is_repacked
from edge_agent.gguf.header import read_header
from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.arm import asking
from rigs.arm.roots import SUITES, Root, prepare_machine
from rigs.llama_sources import run_program
from rigs.machine import ROOT
from tests.helpers.bundles import converted

WHEELHOUSE, WORK = ROOT / "dist" / "wheelhouse" / "aarch64", ROOT / "build" / "arm"
# Together they have tensors of every type with fast ARM kernels that fits the model.
MODELS = ("q4_0", "q4_k_m")
# Kernels round differently.
MAX_SCORE_DIFFERENCE = 0.02
# llama.cpp logs the size of each buffer with two decimals.
_ROUNDED_MIB = 0.011


@dataclass(frozen=True)
class Core:
    cpu: str
    """Qemu's name for the core."""
    variant: str
    """The kernels that llama.cpp must load."""
    features: frozenset[str]
    target: Target
    """The converter's name for these kernels."""


CORES = (
    Core("cortex-a72", "armv8.0_1", frozenset({"NEON"}), Target.ARMV8_0),
    Core("cortex-a76", "armv8.2_2", frozenset({"NEON", "DOTPROD", "FP16_VA"}), Target.DOTPROD),
    Core("neoverse-v1", "armv8.6_1", frozenset({"NEON", "DOTPROD", "FP16_VA", "MATMUL_INT8", "SVE"}), Target.I8MM),
    Core("max", "armv9.2_2", frozenset({"NEON", "DOTPROD", "FP16_VA", "MATMUL_INT8", "SVE", "SME"}), Target.I8MM),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.arm", description=__doc__)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    given = parser.parse_args()
    prepare_machine()
    if not (WHEELHOUSE / "requirements.txt").is_file():
        raise SystemExit("there is no wheelhouse: make wheelhouse ARCH=aarch64")
    references = {model: _reference(model) for model in MODELS}
    print(
        f"{'system':9} {'core':12} {'model':7} {'variant':10} {'repacked MiB':>13} {'scores off':>10}  JSON", flush=True
    )
    faults: list[str] = []
    for suite in given.suites:
        root = Root(suite, WORK)
        root.make()
        root.install(WHEELHOUSE)
        shutil.copy(asking.__file__, root.outside(Path("/opt")))
        for model in MODELS:
            shutil.copytree(WORK / model, root.outside(Path("/opt") / model), dirs_exist_ok=True)
        for core in CORES:
            for model in MODELS:
                faults += _run(root, core, model, references[model])
    print("\n".join(faults) or "everything is as expected")
    return 1 if faults else 0


def _reference(model: str) -> dict[str, Any]:
    """The answers of this machine, with the wheel that is installed here."""
    bundle = converted(checkpoint_folder(), WORK / model, "--no-canaries", "--force", quantization=model)
    command = [sys.executable, "-m", "rigs.arm.asking", str(bundle / "model.gguf")]
    answers: dict[str, Any] = json.loads(run_program(command))
    return answers


def _run(root: Root, core: Core, model: str, reference: dict[str, Any]) -> list[str]:
    output = root.python(["/opt/asking.py", f"/opt/{model}/model.gguf"], {"QEMU_CPU": core.cpu})
    found = json.loads(output.splitlines()[-1])
    variant, *features = found["cpu_variant"].split()
    expected_mib = _repacked_mib(WORK / model / "model.gguf", core.target)
    off = max(
        abs(here[label] - there)
        for here, there_all in zip(found["scores"], reference["scores"], strict=True)
        for label, there in there_all.items()
    )
    is_same = found["diagnosis"] == reference["diagnosis"]
    repacked = f"{found['repacked_mib']:.2f}/{expected_mib:.2f}"
    answered = "same" if is_same else "other"
    print(f"{root.suite:9} {core.cpu:12} {model:7} {variant:10} {repacked:>13} {off:10.4f}  {answered}", flush=True)
    wrong = {
        f"loads {variant}, not {core.variant}": variant != core.variant,
        f"has no {', '.join(sorted(core.features - set(features)))}": not core.features <= set(features),
        f"repacks {repacked} MiB": abs(found["repacked_mib"] - expected_mib) > _ROUNDED_MIB,
        f"scores are {off:.4f} off": off > MAX_SCORE_DIFFERENCE,
        f"answers {found['diagnosis']}, not {reference['diagnosis']}": not is_same,
    }
    return [f"{root.suite} {core.cpu} {model}: {fault}" for fault, is_so in wrong.items() if is_so]


def _repacked_mib(model: Path, target: Target) -> float:
    """The size of all repacked matrices; the embedding is also the output matrix."""
    return sum(
        tensor.nbytes / 2**20
        for tensor in read_header(model).tensors
        if len(tensor.shape) == 2 and is_repacked(target, GgmlType[tensor.type.name], tensor.shape[1])
    )


if __name__ == "__main__":
    raise SystemExit(main())
