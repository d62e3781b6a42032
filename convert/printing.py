"""What the commands print."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .agent import CANARIES_FILE, SHOWN_OF_KEY, SIGNATURE_FILE, Model, aligned, is_expired, percent
from .arguments import PROGRAM
from .conversion import Job, WrittenBundle
from .errors import escaped
from .plan import CONTEXT_TOKENS, FilePlan
from .report import numbers
from .report.numbers import ratio, significant
from .report.quality import Comparison, Vocabulary


def complain(message: object) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, sort_keys=True))


def print_plan(plan: FilePlan, job: Job, vocabulary: Vocabulary, *, as_json: bool) -> None:
    """Each tensor's type and bytes, and what the model takes on a board of the target."""
    if as_json:
        tensors = [
            {"name": info.name, "type": info.kind.name, "shape": list(info.shape), "bytes": info.nbytes}
            for info in plan.infos
        ]
        print_json(_facts(plan, job, vocabulary) | {"tensors": tensors})
        return
    print("\n".join(aligned([(info.name, info.kind.name, str(info.nbytes)) for info in plan.infos], left=2)))
    _print_histogram(plan, job, vocabulary)


def print_written(
    written: WrittenBundle, plan: FilePlan, job: Job, folder: Path, seconds: float, *, as_json: bool
) -> None:
    if as_json:
        facts = {
            "bundle": str(folder),
            "canaries": written.canaries,
            "files": written.manifest["files"],
            "peak_rss_bytes": _peak_rss_bytes(),
            "seconds": round(seconds, 3),
            "signed": job.sign is not None,
            "warnings": written.warnings,
        }
        print_json(_facts(plan, job, written.vocabulary) | facts)
        return
    licence = f"licence {escaped(plan.licence)}" if plan.licence else "licence not stated (--licence states it)"
    print(
        f"{escaped(str(folder))}: {escaped(plan.name)} version {job.version}, {plan.quantization_name}, {licence}"
        f"{', signed' if job.sign is not None else ''}"
    )
    _print_histogram(plan, job, written.vocabulary)
    print(f"canaries: {written.canaries or 'none'}")
    print(f"{seconds:.1f} s")


def print_comparison(comparison: Comparison) -> None:
    divergence, perplexity = comparison.divergence, comparison.perplexity
    print(
        f"KL divergence    {significant(divergence.mean)} ± {significant(divergence.error, 1)} nats, "
        f"99 % of all positions below {significant(divergence.p99)}"
    )
    print(f"same first token {numbers.percent(divergence.top1_agreement)}")
    verdict = numbers.perplexity_verdict(perplexity)
    print(f"perplexity       {ratio(perplexity.ratio)} times the reference's: {verdict}")
    width = max((len(escaped(task.name)) for task in comparison.tasks), default=0)
    for task in comparison.tasks:
        right, name = round(task.accuracy * task.examples), escaped(task.name)
        print(f"{name:{width}} {right} of {task.examples} answers right, {numbers.right_answers(task)}")
        reference, points = numbers.percent(task.reference_accuracy), numbers.points_gained(task)
        print(f"{'':{width}} the reference: {reference}, difference in points: {points}")


def print_verification(
    folder: Path,
    model: Model | None,
    sbom: dict[str, Any] | None,
    faults: list[str],
    *,
    is_asked: bool,
    as_json: bool,
) -> None:
    """`model` and `sbom` are None if the bundle cannot be opened. `is_asked` says whether its canaries were asked."""
    has_canaries = (folder / CANARIES_FILE).is_file()
    if as_json:
        print_json(
            {
                "bundle": str(folder),
                "ok": not faults,
                "faults": faults,
                "signed": (folder / SIGNATURE_FILE).is_file(),
                "signature_checked": model is not None and model.signature == "good",
                "signed_by": None if model is None else _key_of(model),
                "expires": None if model is None else model.expires,
                "has_canaries": has_canaries,
                "canaries_asked": model is not None and is_asked,
                "chat_template_sha256": None if model is None else model.chat_template_sha256,
                "score_maps": {} if model is None else _mapped_tasks(model),
                "students": [] if model is None else [one.name for one in model.students],
                "sbom": sbom,
            }
        )
    elif model is not None and sbom is not None and not faults:
        name = escaped(model.bundle_name)
        print(f"{escaped(str(folder))}: {name} version {model.version}, all files match the manifest")
        print(f"template   {model.chat_template_sha256 or 'none'}")
        by = f", key {key}" if (key := _key_of(model)) else ""
        print(f"signature  {model.signature or 'none'}{by}")
        expired = " (expired)" if model.expires is not None and is_expired(model.expires) else ""
        print(f"expires    {model.expires or 'never'}{expired}")
        print(f"score maps {', '.join(sorted(map(escaped, _mapped_tasks(model).values()))) or 'none'}")
        print(f"students   {', '.join(one.name for one in model.students) or 'none'}")
        print(f"canaries   {'all answers as recorded' if is_asked else 'not asked' if has_canaries else 'none'}")
        (checkpoint,) = sbom["metadata"]["component"]["pedigree"]["ancestors"]
        print(f"licence    {escaped(model.licence or 'unknown')}")
        print(f"made from  a checkpoint of revision {escaped(checkpoint.get('version', 'unknown'))}")
        for file in sbom["components"]:
            print(f"file       {escaped(file['name'])}, SHA-256 {file['hashes'][0]['content']}")


def _key_of(model: Model) -> str | None:
    """The key that verified the bundle, cut as in `info`."""
    return model.signed_by and model.signed_by[:SHOWN_OF_KEY]


def _mapped_tasks(model: Model) -> dict[str, str]:
    """The tasks with score maps, by definition."""
    return {definition: str(entry.get("task")) for definition, entry in model.score_maps.items()}


def _print_histogram(plan: FilePlan, job: Job, vocabulary: Vocabulary) -> None:
    for name, counts in plan.histogram().items():
        print(f"{counts['tensors']:>5} {name:6}  {counts['bytes']:>12}")
    print(f"{len(plan.infos):>5} tensors {plan.data_bytes:>12} bytes, {plan.file_bytes} with the header")
    print(f"{plan.quantization_name}, {plan.bits_per_weight:.2f} bits per weight")
    print(
        f"{plan.bytes_per_token} bytes read per token; loading copies {plan.ram_bytes(job.target)} bytes into "
        f"anonymous memory for fast kernels (computed for target {job.target.value}, not measured)"
    )
    print(f"{plan.kv_bytes_per_token} bytes of keys and values per token of context")
    if (coverage := vocabulary.coverage) is not None:
        print(f"vocabulary: {vocabulary.tokens:,} of {vocabulary.of:,} tokens")
        as_before = f"{percent(coverage.covered / coverage.lines)} of {coverage.lines:,} lines are read as before"
        print(f"  {coverage.name}: {as_before}; all take {percent(coverage.growth)} more tokens")
    print(
        f"memory on a board: about {plan.board_bytes / 1e9:.1f} GB with {CONTEXT_TOKENS} tokens of context (predicted)"
    )


def _facts(plan: FilePlan, job: Job, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": job.version,
        "licence": plan.licence,
        "quantization": plan.quantization_name,
        "bits_per_weight": round(plan.bits_per_weight, 3),
        "types": plan.histogram(),
        "tensor_bytes": plan.data_bytes,
        "file_bytes": plan.file_bytes,
        "target": job.target.value,
        "ram_bytes": plan.ram_bytes(job.target),
        "board_bytes": plan.board_bytes,
        "bytes_per_token": plan.bytes_per_token,
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "vocabulary": asdict(vocabulary),
    }


def _peak_rss_bytes() -> int | None:
    """Largest resident set of this process; None without /proc. getrusage would start with the parent's value."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
