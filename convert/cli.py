"""`edge-convert`: arguments, output and exit codes (0 done, 1 failed, 2 usage, 65 bad checkpoint)."""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from . import __version__
from .conversion import Options, Plan, Written, make_plan, processors, write_bundle
from .errors import CheckpointError, ConvertError, printable
from .progress import ProgressLine, StageLine
from .read.checkpoint import Checkpoint
from .read.config import MAX_NAME_LENGTH
from .report import page
from .report import quality as quality_file
from .tune.candidates import Target
from .weights.recipe import Quantization
from .write.bundle import STOPPING_SIGNALS, check_target, verify_bundle
from .write.manifest import FILE as MANIFEST_FILE
from .write.manifest import IMPORTANCE_FILE, MODEL_FILE, SIGNATURE_FILE
from .write.signature import read_private_key, read_public_key

PROGRAM = "edge-convert"
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_CHECKPOINT = 0, 1, 2, 65


class Interrupted(BaseException):
    """A signal asked us to stop; not an Exception, so that no handler of errors takes it for one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse exits by itself with 2, or 0 for --help and --version."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"verify": _verify, "evaluate": _evaluate}
    command = commands.get(words[0]) if words else None
    try:
        with _stopping_signals():
            return _convert(words) if command is None else command(words[1:])
    except CheckpointError as error:
        _complain(error)
        return EXIT_BAD_CHECKPOINT
    except ConvertError as error:
        _complain(error)
    except OSError as error:
        _complain(f"{printable(str(error.filename))}: {error.strerror}" if error.filename else error.strerror or error)
    except Interrupted as error:
        _complain(f"stopped by {error}; nothing half written is left")
    return EXIT_FAILED


def _complain(message: object) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


@contextmanager
def _stopping_signals() -> Iterator[None]:
    """While it lasts, the signals that end a program raise Interrupted, so that `finally` clears up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        for stopping in STOPPING_SIGNALS:  # a second one must not interrupt the clearing up
            signal.signal(stopping, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    # What nohup or a shell's background job had us ignore stays ignored.
    heard = [number for number in STOPPING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_NAME_LENGTH} printable characters")
    return text


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*(MB|MiB|GB|GiB|)", text)
    units = {"": 1, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
    if match is None or (nbytes := int(float(match[1]) * units[match[2]])) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, or a number with MB, MiB, GB or GiB")
    return nbytes


def _version(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= 1 << 31 or len(text) > 10:
        raise argparse.ArgumentTypeError(
            "must be an integer from 1 to 2147483648; it rises with every release of a model"
        )
    return int(text)


def _parser() -> argparse.ArgumentParser:
    types = [quantization.value for quantization in Quantization]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle.",
        epilog=f"`{PROGRAM} verify BUNDLE` checks the hashes of a bundle and its signature; "
        f"`{PROGRAM} evaluate BUNDLE --against REFERENCE` measures how far its predictions are from those of the "
        "unquantized model.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="folder with config.json and safetensors files"
    )
    parser.add_argument("--out", metavar="BUNDLE", type=Path, help="folder to create")
    parser.add_argument(
        "--type",
        type=str.lower,
        choices=types,
        help="type of the weights; auto (with --budget): the best for the bytes",
    )
    auto = parser.add_argument_group("with --type auto, which --budget stands for")
    auto.add_argument(
        "--budget", metavar="SIZE", type=_size, help="bytes of model.gguf, or with MB (10^6) or MiB (2^20)"
    )
    auto.add_argument(
        "--target",
        choices=[target.value for target in Target],
        help="whose fast kernels the types must have (default: any)",
    )
    auto.add_argument(
        "--calibration", metavar="FILE", type=Path, nargs="+", help="texts to tune on (default: those that come along)"
    )
    auto.add_argument(
        "--eval", metavar="FILE", type=Path, help="texts to judge the result by (default: those that come along)"
    )
    auto.add_argument("--seed", metavar="N", type=int, help="order of the texts (default: 0)")
    auto.add_argument(
        "--work",
        metavar="DIR",
        type=Path,
        help="where what was measured is kept for the next budget (default: a cache)",
    )
    parser.add_argument("--name", type=_name, help="name of the model (default: the checkpoint's own, else `model`)")
    parser.add_argument(
        "--model-version", metavar="N", type=_version, default=1, help="version in the manifest (default: 1)"
    )
    parser.add_argument(
        "--licence", type=_name, help="licence of the model (default: what README.md of the checkpoint says)"
    )
    parser.add_argument(
        "--sign",
        metavar="KEY.pem",
        type=Path,
        help="Ed25519 private key (PEM, no passphrase) to sign the bundle with",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that exists")
    parser.add_argument("--dry-run", action="store_true", help="print each tensor's type and bytes, write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _convert(words: list[str]) -> int:
    parser = _parser()
    given = parser.parse_args(words)
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    is_auto = given.type == Quantization.AUTO.value or (given.type is None and given.budget is not None)
    if given.type is None and not is_auto:
        parser.error("the following arguments are required: --type, or --budget")
    if is_auto and given.budget is None:
        parser.error("--type auto needs --budget")
    for name in ("budget", "target", "calibration", "eval", "seed", "work"):
        if not is_auto and getattr(given, name) is not None:
            parser.error(f"--{name} goes with --type auto, not {given.type}")
    if given.out is not None and given.out.name in ("", ".."):
        parser.error(f"argument --out: {printable(str(given.out))} does not name a new folder")
    started = time.monotonic()
    if not given.dry_run:
        check_target(given.out, replace=given.force)
    sign = None if given.sign is None else read_private_key(given.sign, "--sign").sign
    quantization = Quantization.AUTO if is_auto else Quantization(given.type)
    options = Options(quantization, given.name, given.model_version, given.licence)
    with Checkpoint(given.checkpoint) as checkpoint:
        if is_auto:
            return _convert_automatically(checkpoint, options, given, sign, started)
        plan = make_plan(checkpoint, options)
        for warning in plan.warnings:
            _complain(f"warning: {warning}")
        if given.dry_run:
            _print_plan(plan, as_json=given.json)
            return EXIT_OK
        with closing(ProgressLine(sys.stderr, plan.data_bytes)) as progress:
            written = write_bundle(checkpoint, plan, given.out, replace=given.force, sign=sign, progress=progress.add)
    _print_summary(plan, written, given.out, time.monotonic() - started, as_json=given.json)
    return EXIT_OK


def _convert_automatically(
    checkpoint: Checkpoint,
    options: Options,
    given: argparse.Namespace,
    sign: Callable[[bytes], bytes] | None,
    started: float,
) -> int:
    # It loads llama.cpp, which nothing else needs.
    from .automatic import Wish, choose, judge  # noqa: PLC0415
    from .measure.texts import calibration_files, evaluation_files, read_texts  # noqa: PLC0415

    wish = Wish(
        budget=given.budget,
        target=Target(given.target or Target.ANY),
        calibration=read_texts(given.calibration or calibration_files()),
        evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
        seed=given.seed or 0,
        work=given.work or _cache_folder(),
    )
    with closing(StageLine(sys.stderr)) as stages:
        choice = choose(checkpoint, options, wish, stages.show)
        for warning in choice.plan.warnings:
            _complain(f"warning: {warning}")
        if given.dry_run:
            stages.close()
            _print_plan(choice.plan, as_json=given.json)
            return EXIT_OK

        def more(model: Path) -> dict[str, bytes]:
            quality = judge(choice, model, wish, stages.show)
            return {
                quality_file.FILE: quality.encode(),
                page.FILE: page.page(quality, choice.plan.name).encode(),
                IMPORTANCE_FILE: choice.tuned.importance.read_bytes(),
            }

        written = write_bundle(
            checkpoint, choice.plan, given.out, replace=given.force, sign=sign, encoded=choice.tuned.encoded, more=more
        )
    _print_summary(choice.plan, written, given.out, time.monotonic() - started, as_json=given.json)
    return EXIT_OK


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-agent" / "convert"


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        tensors = [
            {"name": info.name, "type": info.kind.name, "shape": list(info.shape), "bytes": info.nbytes}
            for info in plan.infos
        ]
        _print_json(_common(plan) | {"tensors": tensors})
        return
    width = max(len(info.name) for info in plan.infos)
    for info in plan.infos:
        print(f"{info.name:{width}}  {info.kind.name:6}  {info.nbytes:>12}")
    _print_histogram(plan)


def _print_summary(plan: Plan, written: Written, target: Path, seconds: float, *, as_json: bool) -> None:
    if as_json:
        facts = {
            "bundle": str(target),
            "files": {MODEL_FILE: {"sha256": written.model.sha256, "bytes": written.model.nbytes}},
            "manifest_sha256": written.manifest.sha256,
            "peak_rss_bytes": _peak_rss_bytes(),
            "seconds": round(seconds, 3),
            "signed": written.is_signed,
        }
        _print_json(_common(plan) | facts)
        return
    signed = ", signed" if written.is_signed else ""
    print(f"{printable(str(target))}: {printable(plan.name)} version {plan.version}, {plan.quantization.name}{signed}")
    _print_histogram(plan)
    print(f"{MODEL_FILE}  {written.model.nbytes} bytes  sha256 {written.model.sha256}  {seconds:.1f} s")


def _print_histogram(plan: Plan) -> None:
    for name, counts in plan.histogram().items():
        print(f"{counts['tensors']:>5} {name:6}  {counts['bytes']:>12}")
    print(f"{len(plan.infos):>5} tensors {plan.data_bytes:>12} bytes")


def _common(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": plan.version,
        "licence": plan.licence,
        "quantization": plan.quantization.name,
        "types": plan.histogram(),
        "tensor_bytes": plan.data_bytes,
        "warnings": plan.warnings,
    }


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, sort_keys=True))


def _peak_rss_bytes() -> int | None:
    """Largest resident set of this process since it was started, None where /proc does not tell.

    getrusage would not do: after fork and exec its figure begins with the parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _verify(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} verify",
        description="Checks a bundle's files against its manifest, and the manifest against its signature.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--public-key",
        metavar="KEY.pub.pem",
        type=Path,
        help="Ed25519 public key (PEM) of who must have signed the bundle; without it no signature is checked",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    key = None if given.public_key is None else read_public_key(given.public_key, "--public-key")
    manifest, faults = verify_bundle(given.bundle, key)
    is_signed, is_checked = (given.bundle / SIGNATURE_FILE).is_file(), key is not None
    if given.json:
        facts = {"bundle": str(given.bundle), "ok": not faults, "faults": faults}
        _print_json(facts | {"signed": is_signed, "signature_checked": is_checked})
    for fault in faults:
        _complain(f"{printable(str(given.bundle))}: {fault}")
    if not faults and not given.json:
        signed = "signed" if is_checked else "signed, not checked" if is_signed else "not signed"
        shown = f"{printable(str(manifest.get('name')))} version {printable(str(manifest.get('version')))}"
        print(f"{printable(str(given.bundle))}: {shown}, {len(manifest['files'])} files as listed, {signed}")
    return EXIT_FAILED if faults else EXIT_OK


def _evaluate(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} evaluate", description="Measures how far a bundle's predictions are from a reference's."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder with a model.gguf, or a .gguf")
    parser.add_argument(
        "--against", metavar="REFERENCE", type=Path, required=True, help="its checkpoint, or a bundle or .gguf of it"
    )
    parser.add_argument("--eval", metavar="FILE", type=Path, help="texts to judge by (default: those that come along)")
    parser.add_argument("--work", metavar="DIR", type=Path, help="where the reference is kept (default: a cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    # They load llama.cpp.
    from .automatic import reference_model  # noqa: PLC0415
    from .evaluation import evaluate  # noqa: PLC0415
    from .measure.texts import evaluation_files, read_texts  # noqa: PLC0415

    texts = read_texts([given.eval] if given.eval else evaluation_files())
    work = given.work or _cache_folder()
    with closing(StageLine(sys.stderr)) as stages:
        stages.show("reading", 0.0)
        reference, kind = _gguf(given.against), _quantization(given.against)
        if reference is None:
            with Checkpoint(given.against) as checkpoint:
                (reference, work, _), kind = reference_model(checkpoint, work), "BF16"
        quality = evaluate(
            _gguf(given.bundle) or given.bundle,
            reference,
            kind,
            texts,
            work=work,
            threads=processors(),
            progress=stages.show,
        )
    if given.json:
        print(quality.encode().decode())
        return EXIT_OK
    divergence, perplexity = quality.divergence, quality.perplexity
    assert divergence is not None
    assert perplexity is not None
    print(f"KL divergence    {divergence.mean:.5f} ± {divergence.error:.5f} nats, p99 {divergence.p99:.4f}")
    print(f"same first token {100 * divergence.top1_agreement:.1f} %")
    print(f"perplexity       {perplexity.ratio:.4f} of the reference's ({perplexity.low:.4f}–{perplexity.high:.4f})")
    return EXIT_OK


def _gguf(path: Path) -> Path | None:
    """The model file that a bundle or a file's own path means; None = it is neither."""
    if path.is_file():
        return path
    return path / MODEL_FILE if (path / MODEL_FILE).is_file() else None


def _quantization(bundle: Path) -> str:
    """As its manifest names it."""
    try:
        return str(json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["quantization"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
