"""`edge-convert`: its commands and their exit codes (0 done, 1 failed, 2 usage, 65 bad checkpoint)."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext

from .agent import CANARIES_FILE, MANIFEST_FILE, missing_extra, model_facts
from .arguments import CONVERSION, EVALUATION, VERIFICATION, is_tuned
from .conversion import Job, Tuning, decide_types, open_source, recover, write_bundle
from .errors import CheckpointError, ConvertError, escaped
from .evaluate.canaries import differences, read_canary_requests
from .evaluate.comparison import compare_models
from .evaluate.requests import read_labelled, read_tasks, with_tasks
from .evaluate.worker import AdaptedModel, is_model, model_or_reference
from .learning.commands import extend, train
from .measure.cache import user_cache
from .measure.texts import calibration_files, evaluation_files, read_texts
from .measure.vocabulary import WantedVocabulary
from .printing import complain, print_comparison, print_plan, print_verification, print_written
from .progress import ProgressLine
from .quantize.recipe import Quantization
from .quantize.targets import Target
from .read.vocabulary import DEFAULT_TOKENS
from .stopping import StoppedError, stop_on_signals
from .write.bundle import new_bundle, verify_bundle
from .write.manifest import PAGE_FILE, signer
from .write.sbom import sbom

EXIT_OK, EXIT_FAILED, EXIT_BAD_CHECKPOINT = 0, 1, 65


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
        complain(f"standard output: {error.strerror}")
        # Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(words: list[str]) -> int:
    try:
        with stop_on_signals():
            name, *others = words or [""]
            # Not where a script may read standard error.
            if name in _ALIASES and sys.stderr.isatty():
                complain(f"{name} is now called {_ALIASES[name]}")
            if (command := _COMMANDS.get(_ALIASES.get(name, name))) is not None:
                return command(others) or EXIT_OK
            _convert(words)
            return EXIT_OK
    except CheckpointError as error:
        complain(error)
        return EXIT_BAD_CHECKPOINT
    except ConvertError as error:
        complain(error)
    except OSError as error:
        complain(f"{escaped(str(error.filename))}: {error.strerror}" if error.filename else error.strerror or error)
    except StoppedError as error:
        complain(f"stopped by {error}; no partial files are left")
    return EXIT_FAILED


def _convert(words: list[str]) -> None:
    given = CONVERSION.parse(words)
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
            return
        if tuned is not None and tuned.tuning.recovers:
            tuned = recover(plan, tuned, line.show)
        written = write_bundle(job, source, plan, tuned, folder=folder, progress=line.show)
    for warning in written.warnings:
        complain(f"warning: {warning}")
    print_written(written, plan, job, given.out, time.monotonic() - started, as_json=given.json)
    if written.comparison is not None and not given.json:
        print_comparison(written.comparison)
        print(f"more, with charts: {escaped(str(given.out / PAGE_FILE))}")


def _job(given: argparse.Namespace) -> Job:
    """Reads the key and all small files now, so that a mistake in them shows at once."""
    tasks = None if given.tasks is None else read_tasks(given.tasks)
    tuning = None
    # A dry run of a named type needs no texts.
    if is_tuned(given) and not (given.dry_run and given.budget is None):
        tuning = Tuning(
            budget=given.budget,
            calibration=read_texts(given.calibration or calibration_files()),
            evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
            seed=given.seed or 0,
            work=given.work or user_cache(),
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
        quantization=Quantization(given.type or Quantization.AUTO),
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
        sign=signer(given.sign),
    )


def _evaluate(words: list[str]) -> None:
    given = EVALUATION.parse(words)
    texts = read_texts([given.eval] if given.eval else evaluation_files())
    model = AdaptedModel.from_path(given.bundle)
    examples = None if given.labelled is None else read_labelled(given.labelled, read_tasks(given.tasks))
    work = given.work or user_cache()
    with closing(ProgressLine(sys.stderr)) as line:
        reference = model_or_reference(given.against, work, line.show, match=model.path)
        if not is_model(given.against):
            if (facts := model_facts(model.path)).tokens < facts.all_tokens:
                complain(f"note: the checkpoint is read with only the bundle's {facts.tokens:,} tokens")
            reference, work = AdaptedModel(reference.path, model.user_adapters), reference.path.parent
        comparison = compare_models(model, reference, texts, examples, work=work, progress=line.show)
    if given.json:
        print(comparison.encode().decode())
    else:
        print_comparison(comparison)


def _verify(words: list[str]) -> int:
    given = VERIFICATION.parse(words)
    model, faults = None, list[str]()
    try:
        model = verify_bundle(given.bundle, given.public_key)
        if given.canaries:
            if not (given.bundle / CANARIES_FILE).is_file():
                raise ConvertError(f"the bundle has no {CANARIES_FILE}, so --canaries has nothing to ask")
            with closing(ProgressLine(sys.stderr)) as line:
                faults = differences(given.bundle, AdaptedModel.from_path(given.bundle), line.show)
    except ConvertError as error:
        faults = [str(error).removeprefix(f"{escaped(str(given.bundle))}: ")]
    for fault in faults:
        complain(f"{escaped(str(given.bundle))}: {fault}")
    parts = None if model is None else sbom(json.loads((given.bundle / MANIFEST_FILE).read_bytes()))
    if parts is not None and given.sbom is not None:
        given.sbom.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print_verification(given.bundle, model, parts, faults, is_asked=given.canaries, as_json=given.json)
    return EXIT_FAILED if faults else EXIT_OK


_COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "verify": _verify,
    "evaluate": _evaluate,
    "train": train,
    "extend": extend,
}
_ALIASES = {"maps": "extend", "students": "extend"}
