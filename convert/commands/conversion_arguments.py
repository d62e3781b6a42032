"""The arguments of a conversion, and which of them go together."""

import argparse
import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from .. import __version__
from ..errors import printable
from ..tune.candidates import Target
from ..weights.recipe import Quantization
from . import arguments
from .arguments import Parser
from .terminal import PROGRAM

_UNROUNDED = (Quantization.BF16.value, Quantization.F16.value)


def read_arguments(words: list[str], commands: Mapping[str, str]) -> argparse.Namespace:
    """Exits with 2 for what cannot be meant. commands: the words that would have been a sub-command, how each goes on.

    The option's names, and `quantization`; `is_tuned`: whether matrices are rounded for texts.
    """
    parser = _parser(_hint(words, commands), commands)
    given = parser.parse_args(words)
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    is_auto = given.type == Quantization.AUTO.value or (given.type is None and given.budget is not None)
    if given.type is None and not is_auto:
        parser.error("the following arguments are required: --type, or --budget")
    if is_auto and given.budget is None:
        parser.error("--type auto needs --budget")
    given.is_tuned = is_auto or given.calibration is not None
    for name, is_meant, goes in (
        ("budget", is_auto, "--type auto"),
        ("target", is_auto, "--type auto"),
        ("calibration", given.type not in _UNROUNDED, "a type that is rounded to"),
        ("labelled", given.is_tuned, "--budget or --calibration"),
        ("eval", given.is_tuned, "--budget or --calibration"),
        ("seed", given.is_tuned, "--budget or --calibration"),
        ("work", given.is_tuned, "--budget or --calibration"),
    ):
        if not is_meant and getattr(given, name) is not None:
            parser.error(f"--{name} goes with {goes}, not {given.type}")
    if (given.tasks is None) != (given.labelled is None and given.canaries is None):
        parser.error("--tasks goes with --labelled or --canaries, and they with it")
    if given.out is not None and given.out.name in ("", ".."):
        parser.error(f"argument --out: {printable(str(given.out))} does not name a new folder")
    given.quantization = Quantization.AUTO if is_auto else Quantization(given.type)
    return given


def _hint(words: list[str], commands: Collection[str]) -> str | None:
    """Which sub-command may be meant, if these words are no conversion."""
    if misplaced := next((word for word in words[1:] if word in commands), None):
        return f"a sub-command is the first word: `{PROGRAM} {misplaced} …`"
    if words and not Path(words[0]).exists() and (close := difflib.get_close_matches(words[0], commands, 1)):
        return f"there is no checkpoint {printable(words[0])}; is `{PROGRAM} {close[0]} …` meant?"
    return None


def _parser(hint: str | None, commands: Mapping[str, str]) -> Parser:
    types = [quantization.value for quantization in Quantization]
    parser = Parser(
        hint=hint,
        description="Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle.",
        epilog="; ".join(f"`{PROGRAM} {name} {rest}" for name, rest in commands.items()) + ".",
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
        "--budget", metavar="SIZE", type=arguments.size, help="bytes of model.gguf, or with MB (10^6) or MiB (2^20)"
    )
    auto.add_argument(
        "--target",
        choices=[target.value for target in Target],
        help="whose fast kernels the types must have: armv8.0 for a Pi 4, armv8.2-dotprod for a Pi 5, RK3588 or Orin "
        "(default: any, which is the latter)",
    )
    tuned = parser.add_argument_group("with --budget, or --calibration for another type")
    tuned.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        nargs="*",
        help="texts to tune on (default, and without a FILE: those that come along); with another type: rounds its "
        "matrices so that they lose least on these texts",
    )
    tuned.add_argument(
        "--eval", metavar="FILE", type=Path, help="texts to judge the result by (default: those that come along)"
    )
    tuned.add_argument("--seed", metavar="N", type=int, help="order of the texts (default: 0)")
    tuned.add_argument(
        "--work",
        metavar="DIR",
        type=Path,
        help="where what was measured is kept for the next time (default: a cache)",
    )
    arguments.add_labelled(auto)
    arguments.add_tasks(parser)
    canaries = parser.add_mutually_exclusive_group()
    canaries.add_argument(
        "--canaries",
        metavar="FILE",
        type=Path,
        help='requests of --tasks whose answers are recorded; per line {"task", "input"} (default: some of our own)',
    )
    canaries.add_argument(
        "--no-canaries", action="store_true", help="record no answers, which takes seconds to minutes"
    )
    parser.add_argument(
        "--lora", metavar="DIR", type=Path, help="PEFT folder of a LoRA adapter, to be applied together with the model"
    )
    parser.add_argument(
        "--name", type=arguments.name, help="name of the model (default: the checkpoint's own, else `model`)"
    )
    parser.add_argument(
        "--model-version", metavar="N", type=arguments.version, default=1, help="version in the manifest (default: 1)"
    )
    parser.add_argument(
        "--licence", type=arguments.name, help="licence of the model (default: what README.md of the checkpoint says)"
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
