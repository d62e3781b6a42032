"""`edge-convert`: its commands and their exit codes (0 done, 1 failed, 2 usage, 65 bad checkpoint)."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import arguments
from .agent import missing_extra
from .arguments import EXIT_BAD_CHECKPOINT, EXIT_FAILED, EXIT_OK, PROGRAM
from .conversion import Job, Tuning, decide_types, open_source, recover, write_bundle
from .errors import CheckpointError, ConvertError, escaped
from .evaluate.canaries import differences, read_canary_requests
from .evaluate.comparison import compare_models
from .evaluate.labelled import read_labelled
from .evaluate.requests import read_tasks, with_tasks
from .evaluate.worker import Adapted
from .learning.maps import add_maps
from .learning.rows import read_rows, read_unlabelled
from .learning.students import add_students
from .learning.teacher import ask_teacher
from .measure.cache import write_reference
from .measure.texts import calibration_files, evaluation_files, read_texts
from .measure.vocabulary import DEFAULT_TOKENS, WantedVocabulary
from .printing import (
    print_comparison,
    print_maps,
    print_plan,
    print_students,
    print_training,
    print_verification,
    print_written,
)
from .progress import OnProgress, ProgressLine
from .quantize.recipe import Quantization
from .quantize.targets import Target
from .read.checkpoint import Checkpoint
from .read.model import read_model
from .read.vocabulary import cut_to_match
from .stopping import StoppedError, stop_on_signals
from .write.bundle import new_bundle, verify_bundle
from .write.manifest import CANARIES_FILE, FILE, MODEL_FILE, PAGE_FILE, SIGNATURE_FILE, read_private_key
from .write.sbom import sbom


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code. Exits by itself for bad usage, --help and --version."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal's encoding lacks must not end the program. Buffered, a full disk is noticed.
        sys.stdout.reconfigure(errors="backslashreplace", write_through=False)
    try:
        try:
            return _run(list(sys.argv[1:] if words is None else words))
        finally:
            sys.stdout.flush()
    except OSError as error:
        _complain(f"standard output: {error.strerror}")
        # Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(words: list[str]) -> int:
    commands = {"verify": _verify, "evaluate": _evaluate, "maps": _maps, "train": _train, "students": _students}
    try:
        with stop_on_signals():
            command = commands.get(words[0]) if words else None
            return command(words[1:]) if command else _convert(words)
    except CheckpointError as error:
        _complain(error)
        return EXIT_BAD_CHECKPOINT
    except ConvertError as error:
        _complain(error)
    except OSError as error:
        _complain(f"{escaped(str(error.filename))}: {error.strerror}" if error.filename else error.strerror or error)
    except StoppedError as error:
        _complain(f"stopped by {error}; no partial files are left")
    return EXIT_FAILED


def _convert(words: list[str]) -> int:
    given = arguments.parse_conversion(words)
    if given.recover and (missing := missing_extra("recover")):
        raise ConvertError(missing)
    started = time.monotonic()
    job = _job(given)
    new = nullcontext() if given.dry_run else new_bundle(given.out, replace=given.force)
    with closing(ProgressLine(sys.stderr)) as line, new as folder, open_source(job) as source:
        plan, tuned = decide_types(job, source, line.show)
        if folder is None:
            line.close()
            print_plan(plan, job, source.vocabulary, as_json=given.json)
            return EXIT_OK
        if tuned is not None and tuned.tuning.recovers:
            tuned = recover(plan, tuned, line.show)
        written = write_bundle(job, source, plan, tuned, folder=folder, progress=line.show)
    for warning in written.warnings:
        _complain(f"warning: {warning}")
    print_written(written, plan, job, given.out, time.monotonic() - started, as_json=given.json)
    if written.comparison is not None and not given.json:
        print_comparison(written.comparison)
        print(f"more, with charts: {escaped(str(given.out / PAGE_FILE))}")
    return EXIT_OK


def _job(given: argparse.Namespace) -> Job:
    """Reads the key and all small files now, so that a mistake in them shows at once."""
    tasks = None if given.tasks is None else read_tasks(given.tasks)
    tuning = None
    # A dry run of a named type needs no texts.
    if given.is_tuned and not (given.dry_run and given.budget is None):
        tuning = Tuning(
            budget=given.budget,
            calibration=read_texts(given.calibration or calibration_files()),
            evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
            seed=given.seed or 0,
            work=given.work or _cache_folder(),
            recovers=bool(given.recover),
        )
    vocabulary = None
    if given.vocabulary is not None:
        files = [*given.vocabulary, *(given.calibration or calibration_files())]
        vocabulary = WantedVocabulary(
            texts=with_tasks(read_texts(files), tasks or {}),
            tokens=given.vocabulary_size or DEFAULT_TOKENS,
            evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
        )
    return Job(
        checkpoint=given.checkpoint,
        quantization=given.quantization,
        target=Target(given.target or Target.ANY),
        tuning=tuning,
        vocabulary=vocabulary,
        lora=given.lora,
        name=given.name,
        version=given.model_version,
        expires=given.expires,
        licence=given.licence,
        examples=None if tasks is None or given.labelled is None else read_labelled(given.labelled, tasks),
        has_canaries=not given.no_canaries,
        canaries=None if tasks is None or given.canaries is None else read_canary_requests(given.canaries, tasks),
        sign=None if given.sign is None else read_private_key(given.sign).sign,
    )


def _evaluate(words: list[str]) -> int:
    given = arguments.parse_evaluation(words)
    texts = read_texts([given.eval] if given.eval else evaluation_files())
    model = Adapted.from_path(given.bundle)
    examples = None if given.labelled is None else read_labelled(given.labelled, read_tasks(given.tasks))
    work = given.work or _cache_folder()
    with closing(ProgressLine(sys.stderr)) as line:
        reference = _model(given.against, work, line.show, match=model.path)
        if not _is_model(given.against):
            reference, work = Adapted(reference.path, model.user_adapters), reference.path.parent
        found = compare_models(model, reference, texts, examples, work=work, progress=line.show)
    if given.json:
        print(found.encode().decode())
    else:
        print_comparison(found)
    return EXIT_OK


def _maps(words: list[str]) -> int:
    given = arguments.maps_parser().parse_args(words)
    written = add_maps(given.bundle, given.feedback, **_copy_options(given))
    _warn_of_lost_signature(given)
    print_maps(written, given.out, is_signed=given.sign is not None, as_json=given.json)
    return EXIT_OK


def _train(words: list[str]) -> int:
    given = arguments.parse_training(words)
    if missing := missing_extra("train"):
        raise ConvertError(missing)
    tasks = read_tasks(given.tasks)
    rows = [] if given.labelled is None else read_rows(given.labelled, tasks)
    unlabelled = [] if given.unlabelled is None else read_unlabelled(given.unlabelled, tasks, rows)
    sign = None if given.sign is None else read_private_key(given.sign).sign
    # Imports PyTorch, which takes seconds: mistakes in the files show at once.
    from .learning.trained_bundle import TrainingJob, write_trained_bundle  # noqa: PLC0415

    job = TrainingJob(
        rows=rows,
        quantization=Quantization(given.type),
        minutes=given.minutes,
        seed=given.seed,
        name=given.name,
        version=given.model_version,
        expires=given.expires,
        licence=given.licence,
        sign=sign,
    )
    unanswered = list[str]()
    with closing(ProgressLine(sys.stderr)) as line, new_bundle(given.out, replace=given.force) as folder:
        if given.teacher is not None:
            work = given.work or _cache_folder()
            model = _model(given.teacher, work, line.show)
            teacher, unanswered = ask_teacher(model, rows, unlabelled, work=work, progress=line.show)
            job = replace(job, teacher=teacher)
        training, warnings = write_trained_bundle(job, folder, line.show)
    for warning in (*unanswered, *warnings):
        _complain(f"warning: {warning}")
    print_training(training, given.out, is_signed=job.sign is not None, as_json=given.json)
    return EXIT_OK


def _students(words: list[str]) -> int:
    given = arguments.students_parser().parse_args(words)
    written = add_students(given.bundle, given.students, **_copy_options(given))
    _warn_of_lost_signature(given)
    print_students(written, given.out, is_signed=given.sign is not None, as_json=given.json)
    return EXIT_OK


def _copy_options(given: argparse.Namespace) -> dict[str, Any]:
    """How the copy of a bundle is written."""
    sign = None if given.sign is None else read_private_key(given.sign).sign
    return {
        "out": given.out,
        "replace": given.force,
        "version": given.model_version,
        "expires": given.expires,
        "sign": sign,
    }


def _warn_of_lost_signature(given: argparse.Namespace) -> None:
    if given.sign is None and (given.bundle / SIGNATURE_FILE).is_file():
        _complain("warning: the bundle is signed and its copy is not; --sign signs it")


def _verify(words: list[str]) -> int:
    parser = arguments.verification_parser()
    given = parser.parse_args(words)
    if given.sbom is not None and given.bundle.resolve() in given.sbom.resolve().parents:
        parser.error(f"--sbom: should not be inside of the bundle (got {given.sbom})")
    model, faults = None, list[str]()
    try:
        model = verify_bundle(given.bundle, given.public_key)
        if given.canaries:
            if not (given.bundle / CANARIES_FILE).is_file():
                raise ConvertError(f"{CANARIES_FILE}: there is none, so --canaries has nothing to ask")
            with closing(ProgressLine(sys.stderr)) as line:
                faults = differences(given.bundle, Adapted.from_path(given.bundle), line.show)
    except ConvertError as error:
        faults = [str(error)]
    for fault in faults:
        _complain(f"{escaped(str(given.bundle))}: {fault}")
    parts = None if model is None else sbom(json.loads((given.bundle / FILE).read_bytes()))
    if parts is not None and given.sbom is not None:
        given.sbom.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print_verification(given.bundle, model, parts, faults, is_asked=given.canaries, as_json=given.json)
    return EXIT_FAILED if faults else EXIT_OK


def _is_model(path: Path) -> bool:
    """Whether this is a bundle or a .gguf, and no checkpoint."""
    return path.is_file() or (path / MODEL_FILE).is_file()


def _model(path: Path, work: Path, progress: OnProgress, *, match: Path | None = None) -> Adapted:
    """A bundle or .gguf; or a checkpoint, as the unquantized model in `work`, with the tokens of the model `match`."""
    if _is_model(path):
        return Adapted.from_path(path)
    with Checkpoint(path) as checkpoint:
        model = read_model(checkpoint)
        if match is not None:
            model = cut_to_match(model, match)
            if model.config.vocab_size < model.all_tokens:
                _complain(f"note: the checkpoint is read with the bundle's {model.config.vocab_size:,} tokens alone")
        return Adapted(write_reference(checkpoint, model, work, progress))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-agent" / "convert"


def _complain(message: object) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
