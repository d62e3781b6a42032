"""A conversion with texts: matrices are rounded for some, what came out is judged by others."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ..adapters import Adapted, adapters_beside, adapters_of_reference
from ..automatic import Wish, check_kept, choose, judge
from ..bundle_facts import bundle_facts
from ..errors import printable
from ..kept import sole_use
from ..measure.texts import calibration_files, evaluation_files, read_texts
from ..progress import StageLine
from ..report import page
from ..report import quality as quality_file
from ..report.quality import Quality
from ..tune.candidates import Target
from ..write.manifest import IMPORTANCE_FILE, MODEL_FILE
from .job import Job
from .summary import print_plan, print_quality
from .terminal import cache_folder, warn


def convert_tuned(job: Job) -> None:
    """Types by a budget, or those of a name; what was measured before is not measured again."""
    given = job.given
    wish = Wish(
        budget=given.budget,
        target=Target(given.target or Target.ANY),
        calibration=read_texts(given.calibration or calibration_files()),
        evaluation=read_texts([given.eval] if given.eval else evaluation_files()),
        seed=given.seed or 0,
        work=given.work or cache_folder(),
    )
    judged: list[Quality] = []
    with closing(StageLine(sys.stderr)) as stages, sole_use(wish.work, stages.show):
        choice = choose(job.checkpoint, job.options, wish, stages.show)
        warn(choice.plan.warnings)
        if given.dry_run:
            stages.close()
            print_plan(choice.plan, wish.target, as_json=given.json)
            return
        choice = check_kept(choice, stages.show)

        def add_quality(folder: Path) -> None:
            model = folder / MODEL_FILE
            quality = judge(choice, job.checkpoint, model, wish, stages.show)
            own = Adapted(model, adapters_beside(model))
            reference = Adapted(choice.reference.model, adapters_of_reference(model))
            quality = job.questions.judge(quality, own, reference, choice.reference.home, stages.show)
            quality = replace(quality, bundle=bundle_facts(choice.plan, wish.target, folder, wish.calibration))
            judged.append(quality)
            (folder / quality_file.FILE).write_bytes(quality.encode())
            (folder / page.FILE).write_bytes(page.page(quality, choice.plan.name).encode())
            (folder / IMPORTANCE_FILE).write_bytes(choice.tuned.importance.read_bytes())

        job.write(choice.plan, wish.target, stages, encoded=choice.tuned.encoded, judge=add_quality)
    if not given.json:
        print_quality(judged[0])
        print(f"more, with pictures: {printable(str(given.out / page.FILE))}")
