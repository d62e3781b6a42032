"""The arguments of all commands, and which of a conversion's go together."""

import argparse
import re
from pathlib import Path

from . import __version__
from .errors import printable
from .quantize.recipe import Quantization
from .quantize.targets import Target
from .read.config import MAX_NAME_LENGTH

PROGRAM = "edge-convert"
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_CHECKPOINT = 0, 1, 2, 65
_UNROUNDED = (Quantization.BF16.value, Quantization.F16.value)


def _parser(command: str, usage: str, description: str) -> argparse.ArgumentParser:
    # argparse exits with EXIT_USAGE. The usage of all options would hide its message.
    prog = f"{PROGRAM} {command}".rstrip()
    return argparse.ArgumentParser(prog, f"{prog} {usage}", description, allow_abbrev=False)


def parse_conversion(words: list[str]) -> argparse.Namespace:
    """The options by name, and `quantization`, `is_tuned` (whether it rounds for texts). Exits with 2 for bad usage."""
    parser = _conversion_parser()
    given = parser.parse_args(words)
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    is_auto = given.type == Quantization.AUTO.value or (given.type is None and given.budget is not None)
    if given.type is None and not is_auto:
        parser.error("the following arguments are required: --type, or --budget")
    if is_auto and given.budget is None:
        parser.error("--type auto needs --budget")
    given.is_tuned = is_auto or given.calibration is not None
    if given.calibration is not None and given.type in _UNROUNDED:
        parser.error(f"--calibration goes with a type that is rounded to, not {given.type}")
    for name, is_allowed, needs in (
        ("budget", is_auto, "--type auto"),
        ("target", is_auto, "--type auto"),
        *((name, given.is_tuned, "--budget or --calibration") for name in ("labelled", "eval", "seed", "work")),
    ):
        if not is_allowed and getattr(given, name) is not None:
            parser.error(f"--{name} goes with {needs}, not {given.type}")
    if (given.tasks is None) != (given.labelled is None and given.canaries is None):
        parser.error("--tasks and --labelled or --canaries go together")
    if given.out is not None and given.out.name in ("", ".."):
        parser.error(f"argument --out: {printable(str(given.out))} does not name a new folder")
    given.quantization = Quantization.AUTO if is_auto else Quantization(given.type)
    return given


def _conversion_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "",
        "CHECKPOINT --out BUNDLE (--type TYPE | --budget SIZE) [option ...]",
        "Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle. "
        f"`{PROGRAM} verify BUNDLE` checks hashes and signature; `{PROGRAM} evaluate BUNDLE --against REFERENCE` "
        "measures how far a bundle's predictions are from the unquantized model's.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="folder with config.json and safetensors files"
    )
    parser.add_argument("--out", metavar="BUNDLE", type=Path, help="folder to create")
    parser.add_argument(
        "--type",
        type=str.lower,
        choices=[quantization.value for quantization in Quantization],
        help="type of the weights; auto (with --budget): the most faithful types for the bytes",
    )
    auto = parser.add_argument_group("with --budget, which implies --type auto")
    auto.add_argument(
        "--budget", metavar="SIZE", type=size, help="bytes of model.gguf, or with MB (10^6) or MiB (2^20)"
    )
    auto.add_argument(
        "--target",
        choices=[target.value for target in Target],
        help="the board whose fast kernels the types must have: armv8.0 for a Pi 4, armv8.2-dotprod for a Pi 5, RK3588 "
        "or Orin (default: any, the same as armv8.2-dotprod)",
    )
    tuned = parser.add_argument_group("with --budget, or with --calibration and another type")
    tuned.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        nargs="*",
        help="texts for calibration (default, and without a FILE: the included ones); with another type than auto: "
        "rounds its matrices so that they lose least on these texts",
    )
    tuned.add_argument(
        "--eval", metavar="FILE", type=Path, help="texts for the evaluation (default: the included ones)"
    )
    tuned.add_argument("--seed", metavar="N", type=int, help="order of the texts (default: 0)")
    tuned.add_argument(
        "--work", metavar="DIR", type=Path, help="folder for measurements, which the next run uses again"
    )
    add_labelled(tuned)
    add_tasks(parser)
    canaries = parser.add_mutually_exclusive_group()
    canaries.add_argument(
        "--canaries",
        metavar="FILE",
        type=Path,
        help='requests to --tasks whose answers are recorded; per line {"task", "input"} (default: included ones)',
    )
    canaries.add_argument(
        "--no-canaries", action="store_true", help="record no answers, which takes seconds to minutes"
    )
    parser.add_argument(
        "--lora", metavar="DIR", type=Path, help="PEFT folder of a LoRA adapter to apply together with the model"
    )
    parser.add_argument("--name", type=name, help="name of the model (default: the checkpoint's own, else `model`)")
    parser.add_argument(
        "--model-version", metavar="N", type=version, default=1, help="version in the manifest (default: 1)"
    )
    parser.add_argument(
        "--licence", type=name, help="licence of the model (default: that in README.md of the checkpoint)"
    )
    parser.add_argument(
        "--sign",
        metavar="KEY.pem",
        type=Path,
        help="Ed25519 private key (PEM, no passphrase) that signs the bundle",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("--dry-run", action="store_true", help="print each tensor's type and bytes, write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def parse_evaluation(words: list[str]) -> argparse.Namespace:
    """The options by name. Exits with 2 for bad usage."""
    parser = _parser(
        "evaluate",
        "BUNDLE --against REFERENCE [option ...]",
        "Measures how far a bundle's predictions are from a reference's.",
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, help="folder with a model.gguf (and adapters), or a .gguf"
    )
    parser.add_argument(
        "--against",
        metavar="REFERENCE",
        type=Path,
        required=True,
        help="the checkpoint of the bundle, which then gets its adapter.gguf; or a bundle or .gguf as it is",
    )
    parser.add_argument("--eval", metavar="FILE", type=Path, help="texts to compare on (default: the included ones)")
    add_tasks(parser)
    add_labelled(parser)
    parser.add_argument("--work", metavar="DIR", type=Path, help="folder that keeps the reference (default: a cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    if (given.tasks is None) != (given.labelled is None):
        parser.error("--tasks and --labelled go together")
    return given


def parse_verification(words: list[str]) -> argparse.Namespace:
    """The options by name. Exits with 2 for bad usage."""
    parser = _parser(
        "verify",
        "BUNDLE [option ...]",
        "Checks a bundle's files against its manifest, and the manifest against its signature.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--public-key",
        metavar="KEY.pub.pem",
        type=Path,
        help="Ed25519 public key (PEM) of the signer; without it no signature is checked",
    )
    parser.add_argument(
        "--canaries", action="store_true", help="also ask the model again, and compare with the recorded answers"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser.parse_args(words)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", metavar="CONFIG", type=Path, help="an agent's configuration; only its [tasks.NAME] tables count"
    )


def add_labelled(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--labelled",
        metavar="FILE",
        type=Path,
        help='examples of --tasks, for the share of right answers; per line {"task", "input", "answer"}',
    )


def name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_NAME_LENGTH} printable characters")
    return text


def size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*(MB|MiB|GB|GiB|)", text)
    units = {"": 1, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
    if match is None or (nbytes := int(float(match[1]) * units[match[2]])) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, or a number with MB, MiB, GB or GiB")
    return nbytes


def version(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= 1 << 31 or len(text) > 10:
        raise argparse.ArgumentTypeError(
            "must be an integer from 1 to 2147483648; it rises with every release of a model"
        )
    return int(text)
