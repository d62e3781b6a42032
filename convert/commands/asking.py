"""What is asked of a finished model: a user's labelled examples, and requests whose answers are recorded."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters import Adapted
from ..progress import Progress
from ..read.text_file import check_regular
from ..report.quality import Quality

if TYPE_CHECKING:
    from ..ask.requests import Requests


@dataclass(frozen=True, slots=True)
class Questions:
    """examples: None = none are judged. requests: None = our own; is_recorded: whether there are canaries at all."""

    examples: Requests | None
    requests: Requests | None
    is_recorded: bool

    def judge(self, quality: Quality, model: Adapted, reference: Adapted, work: Path, progress: Progress) -> Quality:
        """The quality, with the share of right answers. work: where the reference's are kept. Raises ConvertError."""
        if self.examples is None:
            return quality
        from ..ask.labelled import judge_tasks  # noqa: PLC0415 - not needed to convert

        assert quality.reference is not None
        sha256 = quality.reference.file_sha256
        tasks = judge_tasks(model, reference, sha256, self.examples, work=work, progress=progress)
        return replace(quality, tasks=tasks)

    def record(self, folder: Path, progress: Progress) -> list[str]:
        """Writes the canaries of the model in `folder`; gives warnings. Raises ConvertError."""
        if not self.is_recorded:
            return []
        from ..ask.canaries import add_canaries  # noqa: PLC0415 - as above

        return add_canaries(folder, self.requests, progress)


def read_questions(given: argparse.Namespace, *, are_recorded: bool) -> Questions:
    """The files of --tasks, --labelled and --canaries, as far as they are given. Raises ConvertError."""
    canaries = given.canaries if are_recorded else None
    if given.tasks is None:
        return Questions(None, None, are_recorded)
    from ..ask.canaries import read_canary_requests  # noqa: PLC0415 - as above
    from ..ask.labelled import read_labelled  # noqa: PLC0415
    from ..ask.requests import read_tasks  # noqa: PLC0415

    check_regular(given.tasks)
    tasks = read_tasks(given.tasks)
    return Questions(
        None if given.labelled is None else read_labelled(given.labelled, tasks),
        None if canaries is None else read_canary_requests(canaries, tasks),
        are_recorded,
    )
