"""What `edge-convert` prints of a plan, and of a bundle that it wrote."""

from pathlib import Path
from typing import Any

from ..board_cost import bytes_per_token, ram_bytes
from ..bundle_facts import count_canaries
from ..conversion import Plan, Written
from ..errors import printable
from ..report.figures import NO_BREAK, percent, ratio, significant, value_and_error
from ..report.quality import Quality
from ..report.verdicts import difference_verdict, perplexity_verdict, points_of_right, share_of_right
from ..tune.candidates import Target
from ..weights.mix import told_mix
from .terminal import print_json


def print_plan(plan: Plan, target: Target, *, as_json: bool) -> None:
    """Each tensor's type and bytes, and what they come to on a board of this target."""
    if as_json:
        tensors = [
            {"name": info.name, "type": info.kind.name, "shape": list(info.shape), "bytes": info.nbytes}
            for info in plan.infos
        ]
        print_json(_common(plan, target) | {"tensors": tensors})
        return
    width = max(len(info.name) for info in plan.infos)
    for info in plan.infos:
        print(f"{info.name:{width}}  {info.kind.name:6}  {info.nbytes:>12}")
    _print_histogram(plan, target)


def print_summary(plan: Plan, written: Written, target: Target, folder: Path, seconds: float, *, as_json: bool) -> None:
    """What has been written into the folder."""
    if as_json:
        facts = {
            "bundle": str(folder),
            "canaries": count_canaries(folder),
            "files": {name: {"sha256": file.sha256, "bytes": file.nbytes} for name, file in written.files.items()},
            "manifest_sha256": written.manifest.sha256,
            "peak_rss_bytes": _peak_rss_bytes(),
            "seconds": round(seconds, 3),
            "signed": written.is_signed,
        }
        print_json(_common(plan, target) | facts)
        return
    told = f"{printable(plan.name)} version {plan.version}, {plan.quantization_name}"
    licence = f"licence {printable(plan.licence)}" if plan.licence else "licence not stated"
    print(f"{printable(str(folder))}: {told}, {licence}{', signed' if written.is_signed else ''}")
    _print_histogram(plan, target)
    for name, file in sorted(written.files.items()):
        print(f"{name}  {file.nbytes} bytes  sha256 {file.sha256}")
    print(f"canaries: {count_canaries(folder) or 'none'}")
    print(f"{seconds:.1f} s")


def print_quality(quality: Quality) -> None:
    """How far a model is from its reference, and what that means to tasks."""
    divergence, perplexity = quality.divergence, quality.perplexity
    assert divergence is not None
    assert perplexity is not None
    mean, error = value_and_error(divergence.mean, divergence.error)
    known = f" ± {error}" if error else ""
    lines = [
        f"KL divergence    {mean}{known} nats, 99 % of all positions below {significant(divergence.p99)}",
        f"same first token {percent(divergence.top1_agreement)}",
        f"perplexity       {ratio(perplexity.ratio)} of the reference's: {perplexity_verdict(perplexity)}",
    ]
    names = [printable(task.name) for task in quality.tasks]
    width = max(map(len, names), default=0)
    for name, task in zip(names, quality.tasks, strict=True):
        lines.append(f"{name:{width}} {task.right} of {task.examples} answers right, {share_of_right(task)}")
        if task.reference_accuracy is not None:
            told = f"{points_of_right(task)} points, {difference_verdict(task)}"
            lines.append(f"{'':{width}} the reference: {percent(task.reference_accuracy)}, the difference {told}")
    for line in lines:
        # Nothing is broken here, and people look for spaces.
        print(line.replace(NO_BREAK, " "))


def _print_histogram(plan: Plan, target: Target) -> None:
    for name, counts in plan.histogram().items():
        print(f"{counts['tensors']:>5} {name:6}  {counts['bytes']:>12}")
    print(f"{len(plan.infos):>5} tensors {plan.data_bytes:>12} bytes, with the header {plan.file_bytes}")
    print(f"{told_mix(plan.quantization_name, plan.matrix_bytes)}, {plan.bits_per_weight:.2f} bits per weight")
    print(
        f"{bytes_per_token(plan)} bytes read per token; when loaded, {ram_bytes(plan, target)} bytes copied into "
        f"anonymous memory for fast kernels (computed for target {target.value}, not measured)"
    )


def _common(plan: Plan, target: Target) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": plan.version,
        "licence": plan.licence,
        "quantization": plan.quantization_name,
        "bits_per_weight": round(plan.bits_per_weight, 3),
        "types": plan.histogram(),
        "tensor_bytes": plan.data_bytes,
        "file_bytes": plan.file_bytes,
        "target": target.value,
        "ram_bytes": ram_bytes(plan, target),
        "bytes_per_token": bytes_per_token(plan),
        "warnings": plan.warnings,
    }


def _peak_rss_bytes() -> int | None:
    """Largest resident set of this process since it was started, None where /proc does not tell.

    getrusage would not do: after fork and exec its figure begins with the parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
