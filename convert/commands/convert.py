"""`edge-convert CHECKPOINT`: a bundle whose types have a name, or by way of `tuned` one that is rounded for texts."""

import sys
import time
from collections.abc import Mapping
from contextlib import closing

from ..adapters import open_lora
from ..conversion import Options, make_plan
from ..progress import StageLine
from ..read.checkpoint import Checkpoint
from ..tune.candidates import Target
from ..weights.recipe import Quantization
from ..write.bundle import check_target, check_writable
from ..write.signature import read_private_key
from .asking import read_questions
from .conversion_arguments import read_arguments
from .job import Job
from .summary import print_plan
from .terminal import EXIT_OK, warn


def run(words: list[str], commands: Mapping[str, str]) -> int:
    """Convert; see `--help`. commands: the words that would have been a sub-command, and how each goes on."""
    given = read_arguments(words, commands)
    started = time.monotonic()
    if not given.dry_run:
        check_target(given.out, replace=given.force)
        check_writable(given.out)
    sign = None if given.sign is None else read_private_key(given.sign, "--sign").sign
    questions = read_questions(given, are_recorded=not (given.no_canaries or given.dry_run))
    options = Options(given.quantization, given.name, given.model_version, given.licence)
    with Checkpoint(given.checkpoint) as checkpoint, open_lora(given.lora, checkpoint) as lora:
        warn(lora.warnings if lora is not None else [])
        job = Job(given, checkpoint, lora, options, questions, sign, started)
        # What a named type takes is known without a text.
        if given.quantization is Quantization.AUTO or (given.is_tuned and not given.dry_run):
            # It loads llama.cpp, which nothing else needs.
            from .tuned import convert_tuned  # noqa: PLC0415

            convert_tuned(job)
        else:
            _convert(job)
    return EXIT_OK


def _convert(job: Job) -> None:
    plan = make_plan(job.checkpoint, job.options)
    warn(plan.warnings)
    if job.given.dry_run:
        print_plan(plan, Target.ANY, as_json=job.given.json)
        return
    with closing(StageLine(sys.stderr, is_logged=False)) as line:
        job.write(plan, Target.ANY, line)
