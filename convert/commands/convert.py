"""`edge-convert CHECKPOINT`: a bundle of a named type, or the best for a budget of bytes."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..adapters import Adapted, adapters_beside, adapters_of_reference, add_lora, open_lora
from ..bundle_facts import bundle_facts
from ..conversion import Options, Plan, make_plan, write_bundle
from ..errors import printable
from ..kept import sole_use
from ..progress import StageLine
from ..read.checkpoint import Checkpoint
from ..read.lora import Lora
from ..report import page
from ..report import quality as quality_file
from ..report.quality import Quality
from ..tune.candidates import Target
from ..weights.recipe import Quantization
from ..write.bundle import check_target
from ..write.manifest import IMPORTANCE_FILE, MODEL_FILE
from ..write.signature import read_private_key
from . import arguments
from .asking import Questions, read_questions
from .summary import print_plan, print_quality, print_summary
from .terminal import EXIT_OK, PROGRAM, cache_folder, complain

_UNROUNDED = (Quantization.BF16.value, Quantization.F16.value)


def _parser() -> argparse.ArgumentParser:
    types = [quantization.value for quantization in Quantization]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Converts a checkpoint of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen into a model bundle.",
        epilog=f"`{PROGRAM} verify BUNDLE` checks the hashes of a bundle and its signature; "
        f"`{PROGRAM} evaluate BUNDLE --against REFERENCE` measures how far its predictions are from those of the "
        f"unquantized model; `{PROGRAM} merge-imatrix FILE … --out FILE` adds importance matrices up.",
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


def run(words: list[str]) -> int:
    """Convert; see `--help`."""
    parser = _parser()
    given = parser.parse_args(words)
    if given.out is None and not given.dry_run:
        parser.error("the following arguments are required: --out")
    is_auto = given.type == Quantization.AUTO.value or (given.type is None and given.budget is not None)
    if given.type is None and not is_auto:
        parser.error("the following arguments are required: --type, or --budget")
    if is_auto and given.budget is None:
        parser.error("--type auto needs --budget")
    is_tuned = is_auto or given.calibration is not None
    for name, is_meant, goes in (
        ("budget", is_auto, "--type auto"),
        ("target", is_auto, "--type auto"),
        ("calibration", given.type not in _UNROUNDED, "a type that is rounded to"),
        ("labelled", is_tuned, "--budget or --calibration"),
        ("eval", is_tuned, "--budget or --calibration"),
        ("seed", is_tuned, "--budget or --calibration"),
        ("work", is_tuned, "--budget or --calibration"),
    ):
        if not is_meant and getattr(given, name) is not None:
            parser.error(f"--{name} goes with {goes}, not {given.type}")
    if (given.tasks is None) != (given.labelled is None and given.canaries is None):
        parser.error("--tasks goes with --labelled or --canaries, and they with it")
    if given.out is not None and given.out.name in ("", ".."):
        parser.error(f"argument --out: {printable(str(given.out))} does not name a new folder")
    started = time.monotonic()
    if not given.dry_run:
        check_target(given.out, replace=given.force)
    sign = None if given.sign is None else read_private_key(given.sign, "--sign").sign
    questions = read_questions(given, are_recorded=not (given.no_canaries or given.dry_run))
    quantization = Quantization.AUTO if is_auto else Quantization(given.type)
    options = Options(quantization, given.name, given.model_version, given.licence)
    with Checkpoint(given.checkpoint) as checkpoint, open_lora(given.lora, checkpoint) as lora:
        for warning in lora.warnings if lora is not None else []:
            complain(f"warning: {warning}")
        if is_auto or (is_tuned and not given.dry_run):
            return _convert_tuned(checkpoint, lora, options, given, questions, sign=sign, started=started)
        plan = make_plan(checkpoint, options)
        for warning in plan.warnings:
            complain(f"warning: {warning}")
        if given.dry_run:
            print_plan(plan, Target.ANY, as_json=given.json)
            return EXIT_OK
        warnings: list[str] = []
        with closing(StageLine(sys.stderr, is_logged=False)) as line:

            def add_files(folder: Path) -> None:
                add_lora(folder, lora, plan.name)
                warnings.extend(questions.record(folder, line.show))

            written = write_bundle(
                checkpoint,
                plan,
                given.out,
                replace=given.force,
                sign=sign,
                progress=_writing(line, plan),
                add_files=add_files,
                more_sources=lora.sources if lora is not None else {},
            )
    seconds = time.monotonic() - started
    print_summary(_warned(plan, warnings), written, Target.ANY, given.out, seconds, as_json=given.json)
    return EXIT_OK


def _convert_tuned(
    checkpoint: Checkpoint,
    lora: Lora | None,
    options: Options,
    given: argparse.Namespace,
    questions: Questions,
    *,
    sign: Callable[[bytes], bytes] | None,
    started: float,
) -> int:
    # It loads llama.cpp, which nothing else needs.
    from ..automatic import Wish, choose, judge  # noqa: PLC0415
    from ..measure.texts import calibration_files, evaluation_files, read_texts  # noqa: PLC0415

    warnings: list[str] = []
    judged: list[Quality] = []
    wish = Wish(
        budget=given.budget,
        target=Target(given.target or Target.ANY),
        calibration=read_texts(given.calibration or calibration_files()),
        evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
        seed=given.seed or 0,
        work=given.work or cache_folder(),
    )
    with closing(StageLine(sys.stderr)) as stages, sole_use(wish.work, stages.show):
        choice = choose(checkpoint, options, wish, stages.show)
        for warning in choice.plan.warnings:
            complain(f"warning: {warning}")
        if given.dry_run:
            stages.close()
            print_plan(choice.plan, wish.target, as_json=given.json)
            return EXIT_OK

        def add_files(folder: Path) -> None:
            add_lora(folder, lora, choice.plan.name)
            model = folder / MODEL_FILE
            quality = judge(choice, checkpoint, model, wish, stages.show)
            own = Adapted(model, adapters_beside(model))
            reference = Adapted(choice.reference, adapters_of_reference(model))
            quality = questions.judge(quality, own, reference, choice.home, stages.show)
            warnings.extend(questions.record(folder, stages.show))
            quality = replace(quality, bundle=bundle_facts(choice.plan, wish.target, folder, wish.calibration))
            judged.append(quality)
            (folder / quality_file.FILE).write_bytes(quality.encode())
            (folder / page.FILE).write_bytes(page.page(quality, choice.plan.name).encode())
            (folder / IMPORTANCE_FILE).write_bytes(choice.tuned.importance.read_bytes())

        written = write_bundle(
            checkpoint,
            choice.plan,
            given.out,
            replace=given.force,
            sign=sign,
            encoded=choice.tuned.encoded,
            progress=_writing(stages, choice.plan),
            add_files=add_files,
            more_sources=lora.sources if lora is not None else {},
        )
    seconds = time.monotonic() - started
    print_summary(_warned(choice.plan, warnings), written, wish.target, given.out, seconds, as_json=given.json)
    if not given.json:
        print_quality(judged[0])
        print(f"more, with pictures: {printable(str(given.out / page.FILE))}")
    return EXIT_OK


def _writing(line: StageLine, plan: Plan) -> Callable[[str, int], None]:
    """Hears each tensor's name and the bytes written of it."""
    started, done = time.monotonic(), 0

    def add(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        rate = done / 1e6 / max(time.monotonic() - started, 1e-3)
        line.show(f"writing {name}  {rate:.1f} MB/s", done / max(1, plan.data_bytes))

    return add


def _warned(plan: Plan, warnings: list[str]) -> Plan:
    """The plan with what came up while it was carried out, which is told."""
    for warning in warnings:
        complain(f"warning: {warning}")
    return replace(plan, warnings=[*plan.warnings, *warnings])
