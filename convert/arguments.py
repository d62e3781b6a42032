"""The options of the commands, one table for each, and which of a conversion's go together."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .agent import NAME_PATTERN, ShowVersion, expiry
from .errors import escaped
from .plan import DEFAULT_NAME
from .quantize.recipe import Quantization
from .quantize.targets import Target
from .read.vocabulary import DEFAULT_TOKENS

PROGRAM = "edge-convert"
_MAX_NAME_LENGTH = 128
_EXITS = "Exit codes: 0 done, 1 failed, 2 usage, 65 bad checkpoint."
# The names of an option or argument, and what argparse needs to know about it.
Option = tuple[Sequence[str], Mapping[str, Any]]


def option(names: str, metavar: str | None, about: str, kind: Callable[[str], Any] = Path, **more: Any) -> Option:
    """An option or argument; without `metavar` and choices it is a switch."""
    is_switch = metavar is None and "choices" not in more
    reading = {"action": "store_true"} if is_switch else {"metavar": metavar, "type": kind}
    return names.split(), {"help": about, **reading, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command with its options. The conversion itself is the command without a name."""

    name: str
    usage: str
    about: str
    options: Sequence[Option]
    groups: Mapping[str, Sequence[Option]] = field(default_factory=dict)
    # Says which options do not go together; returns None if all do.
    fault: Callable[[argparse.Namespace], str | None] = lambda _given: None

    def parser(self) -> argparse.ArgumentParser:
        # The usage of all options would hide the message of argparse, which exits with 2.
        program = f"{PROGRAM} {self.name}".rstrip()
        parser = argparse.ArgumentParser(program, f"{program} {self.usage}", self.about, _EXITS, allow_abbrev=False)
        if not self.name:
            parser.add_argument("--version", action=ShowVersion)
        groups = [(parser.add_argument_group(title), options) for title, options in self.groups.items()]
        for group, options in [(parser, self.options), *groups]:
            for names, settings in options:
                group.add_argument(*names, **settings)
        return parser

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The options by name. Exits with 2 for bad usage."""
        parser = self.parser()
        given, unknown = parser.parse_known_args(words)
        if unknown:
            is_word = not self.name and not unknown[0].startswith("-")
            hint = f"; {PROGRAM} takes one CHECKPOINT; its sub-commands are verify, evaluate, train and extend"
            parser.error(f"unrecognized arguments: {escaped(' '.join(unknown))}{hint if is_word else ''}")
        if (fault := self.fault(given)) is not None:
            parser.error(fault)
        return given


def parse_name(text: str) -> str:
    if not 1 <= len(text) <= _MAX_NAME_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_NAME_LENGTH} printable characters")
    return text


def parse_task_name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError("must be 1 to 64 of A to Z, a to z, 0 to 9, _ and -")
    return text


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([MG]i?)?B?", text, re.IGNORECASE)
    units = {"": 1, "m": 10**6, "mi": 2**20, "g": 10**9, "gi": 2**30}
    if match is None or (nbytes := int(float(match[1]) * units[(match[2] or "").lower()])) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, or a number with MB, MiB, GB or GiB")
    return nbytes


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


def integer(low: int, high: int, what: str = "an integer", more: str = "") -> Callable[[str], int]:
    """Reads an integer from `low` to `high`."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,10}", text) is None or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be {what} from {low} to {high}{more}")
        return int(text)

    return parse


OUT = option("--out", "BUNDLE", "folder to create")
TASKS = option("--tasks", "CONFIG", "an agent's configuration; only its [tasks.NAME] tables are used")
# What a file of rows is, wherever it is given.
ROWS = (
    'lines of {"task": …, "input": …, "answer": …}; or a .csv with a column answer, and input or other columns; '
    "with one task, task may be left out"
)
_LABELLED = option("--labelled", "FILE", f"for the share of right answers: {ROWS}")
FORCE = option("--force", None, "replace an existing bundle")
JSON = option("--json", None, "print one JSON object on stdout")


def required(given: Option) -> Option:
    """The same option, which must be given."""
    names, settings = given
    return names, {**settings, "required": True}


def release(*, version: str, expires: str, bundle: str, **more: Any) -> list[Option]:
    """Options for what a manifest says about a release.

    `version` and `expires` say in words what their defaults are, `bundle` what is signed.
    """
    until = "date, or RFC 3339 date with a time, after which no board switches to the bundle"
    kind = integer(1, 1 << 31, more=", which rises with every release")
    return [
        option("--model-version", "N", f"version in the manifest (default: {version})", kind, **more),
        option("--expires", "DATE", f"{until} (default: {expires})", parse_expiry),
        option("--sign", "KEY.pem", f"Ed25519 private key (PEM, no passphrase) that signs the {bundle}"),
    ]


def identity(licence: str) -> list[Option]:
    """Options for what a new model's manifest says about it. `licence` is the help of --licence."""
    return [
        option("--name", "NAME", "name of the model (default: model)", parse_name, default=DEFAULT_NAME),
        *release(version="1", expires="never", bundle="bundle", default=1),
        option("--licence --license", "LICENCE", licence, parse_name),
    ]


def is_tuned(given: argparse.Namespace) -> bool:
    """Whether a conversion rounds the weights for texts."""
    return given.budget is not None or given.calibration is not None


def _conversion_fault(given: argparse.Namespace) -> str | None:
    if given.out is None and not given.dry_run:
        return "the following arguments are required: --out"
    if given.type is None and given.budget is None:
        return "the following arguments are required: --type, or --budget"
    is_auto = given.type in (None, Quantization.AUTO.value)
    if is_auto and given.budget is None:
        return "--type auto needs --budget"
    if given.calibration is not None and given.type in (Quantization.BF16.value, Quantization.F16.value):
        return f"--calibration goes with a type that is rounded to, not {given.type}"
    tuned = is_tuned(given)
    for name, is_allowed, needs in (
        ("budget", is_auto, "--type auto"),
        ("target", is_auto, "--type auto"),
        *((name, tuned, "--budget or --calibration") for name in ("labelled", "recover", "seed", "work")),
        ("eval", tuned or given.vocabulary is not None, "--budget, --calibration or --vocabulary"),
    ):
        if not is_allowed and getattr(given, name) is not None:
            return f"--{name} goes with {needs}, not {given.type}"
    has_requests = given.labelled is not None or given.canaries is not None
    if given.tasks is None and has_requests:
        return "--labelled and --canaries need --tasks"
    if given.tasks is not None and given.vocabulary is None and not has_requests:
        return "--tasks goes with --labelled, --canaries or --vocabulary"
    if given.vocabulary_size is not None and given.vocabulary is None:
        return "--vocabulary-size goes with --vocabulary"
    if given.canaries is not None and given.no_canaries:
        return "argument --no-canaries: not allowed with argument --canaries"
    if given.out is not None and given.out.name in ("", ".."):
        return f"argument --out: {escaped(str(given.out))} does not name a new folder"
    return None


def _evaluation_fault(given: argparse.Namespace) -> str | None:
    return None if (given.tasks is None) == (given.labelled is None) else "--tasks and --labelled go together"


def _verification_fault(given: argparse.Namespace) -> str | None:
    is_inside = given.sbom is not None and given.bundle.resolve() in given.sbom.resolve().parents
    return f"--sbom: should not be inside the bundle (got {given.sbom})" if is_inside else None


_CALIBRATION = (
    "texts on which the rounded matrices should lose least (default, and without a FILE: the included ones); "
    "types other than auto are rounded for texts only with this option"
)
_RECOVER = (
    "train levels, scales, norms and biases, so that the model comes nearer to the checkpoint with the same bytes: "
    "about an hour for a 0.5B (needs the extra recover)"
)
_TARGET = (
    "the boards on which each type must be fast: armv8.0 for a Pi 4; armv8.2-dotprod for a Pi 5, RK3588 or Orin; "
    "armv8.6-i8mm for newer cores (default: any, all of these boards with one bundle)"
)
_TYPE = "type of the weights; auto (with --budget): the most faithful types for the bytes"
_CANARIES = 'requests to --tasks whose answers are recorded; one {"task", "input"} per line (default: included ones)'
_WORK = "folder for measurements, which the next run uses again (default: the user's cache)"
_VOCABULARY = (
    "texts of the plant. The model keeps the tokens of these, of --tasks and of calibration texts, and the most "
    "general others. It is smaller and faster, and other texts usually take more tokens"
)
_TOKENS = f"how many tokens to keep (default: {DEFAULT_TOKENS})"
_AGAINST = "the bundle's checkpoint, to which its adapter.gguf is then applied; or a bundle or .gguf, as it is"
_PUBLIC_KEY = (
    "Ed25519 public key (PEM); may be given several times: one of the keys must have signed the bundle. "
    "Without a key, no signature is checked"
)

CONVERSION = Command(
    name="",
    usage="CHECKPOINT --out BUNDLE (--type TYPE | --budget SIZE) [option ...]",
    about="Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle. "
    f"`{PROGRAM} verify BUNDLE` checks hashes and signature. `{PROGRAM} evaluate BUNDLE --against REFERENCE` "
    "measures how far a bundle's predictions are from the unquantized model's.",
    options=[
        option("checkpoint", "CHECKPOINT", "folder with config.json and safetensors files"),
        OUT,
        option("--type", None, _TYPE, str.lower, choices=[one.value for one in Quantization]),
        TASKS,
        option("--canaries", "FILE", _CANARIES),
        option("--no-canaries", None, "record none, which saves seconds to minutes"),
        option("--lora", "DIR", "PEFT folder of a LoRA adapter to apply together with the model"),
        *identity("licence (default: that in the checkpoint's README.md)"),
        FORCE,
        option("--dry-run", None, "print each tensor's type and bytes, write nothing"),
        JSON,
    ],
    groups={
        "with --budget, which implies --type auto": [
            option("--budget", "SIZE", "bytes of model.gguf, or with MB (10^6) or MiB (2^20)", parse_size),
            option("--target", None, _TARGET, str, choices=[one.value for one in Target]),
        ],
        "with --budget, or with --calibration and another type": [
            option("--calibration", "FILE", _CALIBRATION, nargs="*", action="extend"),
            option("--eval", "FILE", "texts for the evaluation, also with --vocabulary (default: the included ones)"),
            option("--recover", None, _RECOVER, default=None),
            option("--seed", "N", "order of the texts (default: 0)", int),
            option("--work", "DIR", _WORK),
            _LABELLED,
        ],
        "for a smaller vocabulary": [
            option("--vocabulary", "FILE", _VOCABULARY, nargs="+", action="extend"),
            option("--vocabulary-size", "N", _TOKENS, integer(1, 9_999_999, "a number of tokens,")),
        ],
    },
    fault=_conversion_fault,
)
EVALUATION = Command(
    name="evaluate",
    usage="BUNDLE --against REFERENCE [option ...]",
    about="Measures how far a bundle's predictions are from a reference's.",
    options=[
        option("bundle", "BUNDLE", "folder with a model.gguf (and adapters), or a .gguf"),
        option("--against", "REFERENCE", _AGAINST, required=True),
        option("--eval", "FILE", "texts to compare on (default: the included ones)"),
        TASKS,
        _LABELLED,
        option("--work", "DIR", "folder that keeps the reference for the next run (default: the user's cache)"),
        JSON,
    ],
    fault=_evaluation_fault,
)
VERIFICATION = Command(
    name="verify",
    usage="BUNDLE [option ...]",
    about="Checks a bundle's files against its manifest, and the manifest against its signature. "
    "Shows what the bundle is made of.",
    options=[
        option("bundle", "BUNDLE", "folder of a bundle"),
        option("--public-key", "KEY.pub.pem", _PUBLIC_KEY, action="append", default=[]),
        option("--canaries", None, "also ask the model the recorded requests and compare its answers"),
        option("--sbom", "FILE", "also write the bundle's SBOM there: CycloneDX 1.6, JSON"),
        JSON,
    ],
    fault=_verification_fault,
)
