"""The arguments of all commands, and which of a conversion's go together."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .agent import ShowVersion, expiry
from .errors import escaped
from .measure.vocabulary import DEFAULT_TOKENS
from .plan import DEFAULT_NAME
from .quantize.recipe import Quantization
from .quantize.targets import Target

PROGRAM = "edge-convert"
_MAX_NAME_LENGTH = 128
EXIT_OK, EXIT_FAILED, EXIT_BAD_CHECKPOINT = 0, 1, 65
_EXITS = "Exit codes: 0 done, 1 failed, 2 usage, 65 bad checkpoint."

_TASKS = ("--tasks", "CONFIG", "an agent's configuration; only its [tasks.NAME] tables count")
_EXAMPLES = 'examples of --tasks, for the share of right answers; per line {"task", "input", "answer"}'
_LABELLED = ("--labelled", "FILE", _EXAMPLES)
_EXPIRES = "date, or RFC 3339 date with a time, after which no board switches to the bundle any more (default: never)"


def _parser(command: str, usage: str, description: str) -> argparse.ArgumentParser:
    # argparse exits with 2. The usage of all options would hide its message.
    prog = f"{PROGRAM} {command}".rstrip()
    return argparse.ArgumentParser(prog, f"{prog} {usage}", description, _EXITS, allow_abbrev=False)


def _add(
    group: argparse._ActionsContainer,
    flag: str,
    metavar: str,
    about: str,
    kind: Callable[[str], Any] = Path,
    **more: Any,
) -> None:
    """An option or argument with a value."""
    group.add_argument(*flag.split(), metavar=metavar, type=kind, help=about, **more)


def parse_conversion(words: list[str]) -> argparse.Namespace:
    """The options by name, and `quantization`, `is_tuned` (whether it rounds for texts). Exits with 2 for bad usage."""
    parser = conversion_parser()
    given, unknown = parser.parse_known_args(words)
    if unknown:
        hint = f"; {PROGRAM} takes one CHECKPOINT, its sub-commands are verify, evaluate, maps, train and students"
        is_word = not unknown[0].startswith("-")
        parser.error(f"unrecognized arguments: {escaped(' '.join(unknown))}{hint if is_word else ''}")
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    if given.type is None and given.budget is None:
        parser.error("the following arguments are required: --type, or --budget")
    given.quantization = Quantization(given.type or Quantization.AUTO)
    is_auto = given.quantization is Quantization.AUTO
    if is_auto and given.budget is None:
        parser.error("--type auto needs --budget")
    given.is_tuned = is_auto or given.calibration is not None
    if given.calibration is not None and given.quantization in (Quantization.BF16, Quantization.F16):
        parser.error(f"--calibration goes with a type that is rounded to, not {given.type}")
    for name, is_allowed, needs in (
        ("budget", is_auto, "--type auto"),
        ("target", is_auto, "--type auto"),
        *((name, given.is_tuned, "--budget or --calibration") for name in ("labelled", "recover", "seed", "work")),
        ("eval", given.is_tuned or given.vocabulary is not None, "--budget, --calibration or --vocabulary"),
    ):
        if not is_allowed and getattr(given, name) is not None:
            parser.error(f"--{name} goes with {needs}, not {given.type}")
    has_requests = given.labelled is not None or given.canaries is not None
    if given.tasks is None and has_requests:
        parser.error("--labelled and --canaries need --tasks")
    if given.tasks is not None and given.vocabulary is None and not has_requests:
        parser.error("--tasks goes with --labelled, --canaries or --vocabulary")
    if given.vocabulary_size is not None and given.vocabulary is None:
        parser.error("--vocabulary-size goes with --vocabulary")
    if given.out is not None and given.out.name in ("", ".."):
        parser.error(f"argument --out: {escaped(str(given.out))} does not name a new folder")
    return given


def conversion_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "",
        "CHECKPOINT --out BUNDLE (--type TYPE | --budget SIZE) [option ...]",
        "Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle. "
        f"`{PROGRAM} verify BUNDLE` checks hashes and signature. `{PROGRAM} evaluate BUNDLE --against REFERENCE` "
        "measures how far a bundle's predictions are from the unquantized model's.",
    )
    parser.add_argument("--version", action=ShowVersion)
    _add(parser, "checkpoint", "CHECKPOINT", "folder with config.json and safetensors files")
    _add(parser, "--out", "BUNDLE", "folder to create")
    parser.add_argument(
        "--type",
        type=str.lower,
        choices=[quantization.value for quantization in Quantization],
        help="type of the weights; auto (with --budget): the most faithful types for the bytes",
    )
    auto = parser.add_argument_group("with --budget, which implies --type auto")
    _add(auto, "--budget", "SIZE", "bytes of model.gguf, or with MB (10^6) or MiB (2^20)", parse_size)
    auto.add_argument(
        "--target",
        choices=[target.value for target in Target],
        help="the boards on which each type must be fast: armv8.0 for a Pi 4; armv8.2-dotprod for a Pi 5, RK3588 or "
        "Orin; armv8.6-i8mm for newer cores (default: any, all of these boards with one bundle)",
    )
    tuned = parser.add_argument_group("with --budget, or with --calibration and another type")
    calibration = (
        "texts on which the rounded matrices should lose least (default, and without a FILE: the included ones); "
        "types other than auto are rounded for texts only with this option"
    )
    _add(tuned, "--calibration", "FILE", calibration, nargs="*", action="extend")
    _add(tuned, "--eval", "FILE", "texts for the evaluation, also with --vocabulary (default: the included ones)")
    tuned.add_argument(
        "--recover",
        action="store_true",
        default=None,
        help="train levels, scales, norms and biases, so that the model comes nearer to the checkpoint with the same "
        "bytes: about an hour for a 0.5B (needs the extra recover)",
    )
    _add(tuned, "--seed", "N", "order of the texts (default: 0)", int)
    _add(tuned, "--work", "DIR", "folder for measurements, which the next run uses again (default: the user's cache)")
    _add(tuned, *_LABELLED)
    cut = parser.add_argument_group("for a smaller vocabulary")
    used = (
        "texts of the plant. The model keeps the tokens of these, of --tasks and of calibration texts, and "
        "the most general others. It is smaller and faster, and other texts usually take more tokens"
    )
    _add(cut, "--vocabulary", "FILE", used, nargs="+", action="extend")
    _add(cut, "--vocabulary-size", "N", f"how many tokens to keep (default: {DEFAULT_TOKENS})", parse_tokens)
    _add(parser, *_TASKS)
    canaries = parser.add_mutually_exclusive_group()
    recorded = 'requests to --tasks whose answers are recorded; per line {"task", "input"} (default: included ones)'
    _add(canaries, "--canaries", "FILE", recorded)
    canaries.add_argument("--no-canaries", action="store_true", help="record none, which saves seconds to minutes")
    _add(parser, "--lora", "DIR", "PEFT folder of a LoRA adapter to apply together with the model")
    _add(parser, "--name", "NAME", "name of the model (default: model)", parse_name, default=DEFAULT_NAME)
    _add(parser, "--model-version", "N", "version in the manifest (default: 1)", parse_version, default=1)
    _add(parser, "--expires", "DATE", _EXPIRES, parse_expiry)
    _add(parser, "--licence --license", "LICENCE", "licence (default: that in the checkpoint's README.md)", parse_name)
    _add(parser, "--sign", "KEY.pem", "Ed25519 private key (PEM, no passphrase) that signs the bundle")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("--dry-run", action="store_true", help="print each tensor's type and bytes, write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def parse_evaluation(words: list[str]) -> argparse.Namespace:
    """The options by name. Exits with 2 for bad usage."""
    parser = evaluation_parser()
    given = parser.parse_args(words)
    if (given.tasks is None) != (given.labelled is None):
        parser.error("--tasks and --labelled go together")
    return given


def evaluation_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "evaluate",
        "BUNDLE --against REFERENCE [option ...]",
        "Measures how far a bundle's predictions are from a reference's.",
    )
    _add(parser, "bundle", "BUNDLE", "folder with a model.gguf (and adapters), or a .gguf")
    against = "the checkpoint of the bundle, which then gets its adapter.gguf; or a bundle or .gguf as it is"
    _add(parser, "--against", "REFERENCE", against, required=True)
    _add(parser, "--eval", "FILE", "texts to compare on (default: the included ones)")
    _add(parser, *_TASKS)
    _add(parser, *_LABELLED)
    _add(parser, "--work", "DIR", "folder that keeps the reference for the next run (default: the user's cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def parse_training(words: list[str]) -> argparse.Namespace:
    """The options by name. Exits with 2 for bad usage."""
    parser = training_parser()
    given = parser.parse_args(words)
    if (given.teacher is None) != (given.unlabelled is None):
        parser.error("--teacher and --unlabelled go together: the teacher answers the rows without labels")
    if given.labelled is None and given.teacher is None:
        parser.error("--labelled is required, or --teacher and --unlabelled")
    if given.work is not None and given.teacher is None:
        parser.error("--work goes with --teacher, whose answers it keeps")
    return given


def training_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "train",
        "--tasks CONFIG --labelled FILE --out BUNDLE [option ...]",
        "Trains a small model of your own from labelled rows, and writes it as a bundle. Readings need some hundred "
        "rows and some minutes. The bundle's quality.html says how right it is on rows that it has not seen. With "
        "--teacher it also learns from a larger model's answers to rows without labels.",
    )
    _add(parser, *_TASKS, required=True)
    rows = (
        'lines of {"task": …, "input": …, "answer": …}; or a .csv with a column answer, and input or other columns; '
        "with one task, task may be missing"
    )
    _add(parser, "--labelled", "FILE", rows)
    _add(parser, "--out", "BUNDLE", "folder to create", required=True)
    taught = parser.add_argument_group("with a teacher")
    teacher = "a bundle, .gguf or checkpoint whose answers the model learns, too; --labelled may then be missing"
    _add(taught, "--teacher", "MODEL", teacher)
    _add(taught, "--unlabelled", "FILE", "rows that the teacher answers: as those of --labelled, without answers")
    _add(
        taught, "--work", "DIR", "folder that keeps the teacher's answers for the next run (default: the user's cache)"
    )
    kinds = [one.value for one in Quantization if one is not Quantization.AUTO]
    parser.add_argument("--type", choices=kinds, default="q8_0", help="type of the weights (default: q8_0)")
    _add(parser, "--minutes", "MIN", "how long the training may take (default: 5)", parse_minutes, default=5.0)
    _add(
        parser,
        "--seed",
        "N",
        "of all that is left to chance but the number of steps, which is by the time (default: 0)",
        parse_seed,
        default=0,
    )
    _add(parser, "--name", "NAME", "name of the model (default: model)", parse_name, default=DEFAULT_NAME)
    _add(parser, "--model-version", "N", "version in the manifest (default: 1)", parse_version, default=1)
    _add(parser, "--expires", "DATE", _EXPIRES, parse_expiry)
    _add(parser, "--licence --license", "LICENCE", "licence of the model (default: not stated)", parse_name)
    _add(parser, "--sign", "KEY.pem", "Ed25519 private key (PEM, no passphrase) that signs the bundle")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def verification_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "verify",
        "BUNDLE [option ...]",
        "Checks a bundle's files against its manifest, and the manifest against its signature. "
        "Shows what the bundle is made of.",
    )
    _add(parser, "bundle", "BUNDLE", "folder of a bundle")
    key = "Ed25519 public key (PEM), one of which must have signed it; without any, no signature is checked"
    _add(parser, "--public-key", "KEY.pub.pem", key, action="append", default=[])
    canaries = "also ask the model the recorded requests and compare its answers"
    parser.add_argument("--canaries", action="store_true", help=canaries)
    _add(parser, "--sbom", "FILE", "also write the bundle's SBOM there: CycloneDX 1.6, JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def maps_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "maps",
        "BUNDLE --feedback EXPORT... --out BUNDLE [option ...]",
        "Fits score maps to the feedback of several boards and adds them to a copy of a bundle. The exports are files "
        "that `edge-agent accuracy TASK --out` writes.",
    )
    _add(parser, "bundle", "BUNDLE", "the bundle whose model gave the answers")
    _add(parser, "--feedback", "EXPORT", "exports of boards and tasks", nargs="+", required=True)
    _add_copy_options(parser)
    return parser


def students_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "students",
        "BUNDLE --students BUNDLE... --out BUNDLE [option ...]",
        "Adds models that `edge-convert train` made to a copy of a larger model's bundle. Each answers its tasks "
        "first, and the larger model what its student is not sure of.",
    )
    _add(parser, "bundle", "BUNDLE", "the larger model")
    _add(parser, "--students", "BUNDLE", "bundles of trained models", nargs="+", required=True)
    _add_copy_options(parser)
    return parser


def _add_copy_options(parser: argparse.ArgumentParser) -> None:
    """How the copy of a bundle is written."""
    _add(parser, "--out", "BUNDLE", "folder to create", required=True)
    _add(parser, "--model-version", "N", "version in the manifest (default: one more than the bundle's)", parse_version)
    _add(parser, "--expires", "DATE", _EXPIRES.replace("never", "as the bundle"), parse_expiry)
    _add(parser, "--sign", "KEY.pem", "Ed25519 private key (PEM, no passphrase) that signs the new bundle")
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def parse_name(text: str) -> str:
    if not 1 <= len(text) <= _MAX_NAME_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_NAME_LENGTH} printable characters")
    return text


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([MG]i?)?B?", text, re.IGNORECASE)
    units = {"": 1, "m": 10**6, "mi": 2**20, "g": 10**9, "gi": 2**30}
    if match is None or (nbytes := int(float(match[1]) * units[(match[2] or "").lower()])) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, or a number with MB, MiB, GB or GiB")
    return nbytes


def parse_seed(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,10}", text) is None or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError("must be an integer from 0 to 4294967295")
    return int(text)


def parse_tokens(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,6}", text) is None:
        raise argparse.ArgumentTypeError("must be a number of tokens, from 1 to 9999999")
    return int(text)


def parse_minutes(text: str) -> float:
    if re.fullmatch(r"\d{1,5}(?:\.\d{1,6})?", text) is None or float(text) == 0:
        raise argparse.ArgumentTypeError("must be a number of minutes, more than 0")
    return float(text)


def parse_expiry(text: str) -> str:
    try:
        expiry(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse_version(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,9}", text) is None or int(text) > 1 << 31:
        raise argparse.ArgumentTypeError("must be an integer from 1 to 2147483648, which rises with every release")
    return int(text)
