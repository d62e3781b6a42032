"""A conversion that was asked for: what is converted, and how its bundle is written, however its types were found."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters import add_lora
from ..conversion import Options, Plan, write_bundle
from ..progress import StageLine, writing
from ..read.checkpoint import Checkpoint
from ..read.lora import Lora
from ..tune.candidates import Target
from ..weights.ggml import GgmlType
from .asking import Questions
from .summary import print_summary
from .terminal import warn


@dataclass(frozen=True, slots=True)
class Job:
    """lora: None = no adapter; sign: None = no signature; started: by the monotonic clock, in seconds."""

    given: argparse.Namespace
    checkpoint: Checkpoint
    lora: Lora | None
    options: Options
    questions: Questions
    sign: Callable[[bytes], bytes] | None
    started: float

    def write(
        self,
        plan: Plan,
        target: Target,
        line: StageLine,
        *,
        encoded: Callable[[str, GgmlType], Path] | None = None,
        judge: Callable[[Path], None] = lambda _folder: None,
    ) -> None:
        """Writes the bundle, and tells what it is. encoded: see `write_bundle`; judge: adds what is told of a model."""
        warnings: list[str] = []

        def add_files(folder: Path) -> None:
            add_lora(folder, self.lora, plan.name)
            warnings.extend(self.questions.record(folder, line.show))
            judge(folder)

        written = write_bundle(
            self.checkpoint,
            plan,
            self.given.out,
            replace=self.given.force,
            sign=self.sign,
            encoded=encoded,
            progress=writing(line, plan.data_bytes),
            add_files=add_files,
            more_sources=self.lora.sources if self.lora is not None else {},
        )
        line.close()
        warn(warnings)
        told = replace(plan, warnings=[*plan.warnings, *warnings])
        seconds = time.monotonic() - self.started
        print_summary(told, written, target, self.given.out, seconds, as_json=self.given.json)
