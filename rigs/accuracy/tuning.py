"""Is what `edge-agent tune` makes of 50 rows nearly as good as what can be had with 500, in time, and as fast?"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from edge_agent.accuracy.score_map import ScoreMap
from edge_agent.core.config import ClassifyTask
from edge_agent.core.envelope import Envelope
from edge_agent.core.pipe import EngineSettings, Load
from edge_agent.models.bundle import open_model
from edge_agent.requests.tasks import Task
from edge_agent.tools.output import aligned
from edge_agent.tools.tune import report
from edge_agent.tools.tune.judge import Asked, Candidate, candidates
from edge_agent.tools.tune.prompts import AS_CONFIGURED, Prompt
from edge_agent.tools.tune.rows import Row as TuneRow
from edge_agent.tools.tune.search import Result, Search, Settings
from edge_agent.worker.client import WorkerClient, started
from rigs.accuracy.datasets import LabelledTask, load
from rigs.accuracy.scores import ask_rows, share_right
from rigs.bench.figures import processor

LEAST_SHARE = 0.95
MOST_MINUTES = 10.0
MOST_SLOWER = 5.0
_PAIRS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Shares of right answers on the test half.

    best: the most that a prompt which is fast enough reaches with any correction, maps being fitted to many rows.
    best_of_slow: the same of all prompts. slower: percent.
    """

    task: str
    as_is: float
    prior: float | None
    tuned: float
    best: float
    best_of_slow: float
    minutes: float
    slower: float

    def misses(self) -> Iterator[str]:
        """The targets that it misses."""
        if self.tuned < LEAST_SHARE * self.best:
            yield f"{self.task}: right in {self.tuned:.3f}, less than {LEAST_SHARE:.0%} of {self.best:.3f}"
        if self.minutes > MOST_MINUTES:
            yield f"{self.task}: {self.minutes:.1f} minutes"
        if self.slower > MOST_SLOWER:
            yield f"{self.task}: {self.slower:.1f} % slower"


def run(arguments: argparse.Namespace) -> int:
    """Gives the exit code: 1 where a target is missed."""
    model = open_model("default", arguments.model)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        command = Load(
            model_path=str(model.path),
            settings=EngineSettings(),
            model_sha256=model.sha256,
            adapters=model.adapters,
            state_dir=folder,
        )
        with started(command) as worker:
            worker.ready()
            for name in arguments.tasks:
                data = load(name, arguments.folder)
                outcomes.append(_Trial(worker, data, model.weights_sha256, arguments).run())
    print(f"\n{processor()}, seed {arguments.seed}", *_table(outcomes), sep="\n")
    print(
        f"Maps of `best` are fitted to {arguments.most_train} rows; it and `best of slow` are the highest of all "
        f"corrections on {arguments.most_test} rows of test, of the prompts listed below each task's table."
    )
    misses = [miss for outcome in outcomes for miss in outcome.misses()]
    for miss in misses:
        print(f"missed: {miss}")
    return 1 if misses else 0


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    head = ("task", "as-is", "prior", "tuned", "best", "best of slow", "minutes", "slower %")
    rows = [
        (
            one.task,
            f"{one.as_is:.3f}",
            "-" if one.prior is None else f"{one.prior:.3f}",
            f"{one.tuned:.3f}",
            f"{one.best:.3f}",
            f"{one.best_of_slow:.3f}",
            f"{one.minutes:.1f}",
            f"{one.slower:.1f}",
        )
        for one in outcomes
    ]
    return aligned([head, *rows])


@dataclass(frozen=True, slots=True)
class _Trial:
    """One task. Only `_tested` sees the test half."""

    worker: WorkerClient
    data: LabelledTask
    weights_sha256: str
    arguments: argparse.Namespace

    @property
    def task(self) -> Task:
        config = ClassifyTask(kind="classify", system=self.data.system, labels=self.data.labels)
        return Task(self.data.name, config)

    def run(self) -> Outcome:
        began = monotonic()
        few = random.Random(self.arguments.seed).sample(self.data.train, self.arguments.rows)
        until = began + 60 * self.arguments.minutes
        settings = Settings(weights_sha256=self.weights_sha256, until=until, max_slower=MOST_SLOWER)
        rows = [TuneRow(row.input, row.label) for row in few]
        result = Search(self.worker, self.task, rows, settings, lambda _: None).run()
        minutes = (monotonic() - began) / 60
        print(
            f"\n{self.data.name}, {len(few)} rows", *report.table(result), *report.words(result, MOST_SLOWER), sep="\n"
        )
        return self._judged(result, minutes)

    def _judged(self, result: Result, minutes: float) -> Outcome:
        slow = [one for one in result.tried if one.asked.slowdown > 1 + MOST_SLOWER / 100]
        likely = {one.asked.prompt.name: one.asked.prompt for one in (result.reference, result.chosen, result.best)}
        accuracies = {name: self._accuracies(prompt, result) for name, prompt in likely.items()}
        for name, found in accuracies.items():
            print(f"{name}, on test:", ", ".join(f"{correction} {share:.3f}" for correction, share in found.items()))
        names_of_slow = {one.asked.prompt.name for one in slow}
        fast = [share for name, found in accuracies.items() if name not in names_of_slow for share in found.values()]
        base = accuracies[AS_CONFIGURED]
        return Outcome(
            task=self.data.name,
            as_is=base["as-is"],
            prior=base.get("prior"),
            tuned=accuracies[result.chosen.asked.prompt.name]["tuned"],
            best=max(fast),
            best_of_slow=max(share for found in accuracies.values() for share in found.values()),
            minutes=minutes,
            slower=self._slower(result.chosen.asked.prompt),
        )

    def _accuracies(self, prompt: Prompt, result: Result) -> dict[str, float]:
        """Of each correction on test; `tuned`: with what tune chose, if it chose this prompt."""
        shown = [example.input for example in prompt.config.examples]
        many = [row for row in self.data.train if row.input not in shown][: self.arguments.most_train]
        task = Task(prompt.name, prompt.config).measuring_prior()
        prior = self.worker.set_tasks((task.prefix(),)).get(task.definition)
        scores = [one for one, _ in ask_rows(self.worker, task, many)]
        asked = Asked(prompt, task.definition, prior, dict(enumerate(scores)))
        with_many: list[Candidate] = candidates(asked, [row.label for row in many], None)
        test = self.data.test[: self.arguments.most_test]
        scored, as_is = ask_rows(self.worker, task, test), ScoreMap.identity(self.data.labels)
        found = {str(one.correction): share_right(scored, one.score_map or as_is) for one in with_many}
        if prompt == result.chosen.asked.prompt:
            found["tuned"] = share_right(scored, result.chosen.score_map or as_is)
        return found

    def _slower(self, prompt: Prompt) -> float:
        """Percent, measured again with other inputs, of which each is asked in both ways in turn."""
        if prompt.name == AS_CONFIGURED:
            return 0.0
        tasks = (self.task, Task("tuned", prompt.config))
        self.worker.set_tasks(tuple(task.prefix() for task in tasks))
        ratios = []
        for row in self.data.test[:_PAIRS]:
            times = []
            for task in tasks:
                began = monotonic()
                self.worker.ask(task.make_run(1, Envelope(input=row.input)))
                times.append(monotonic() - began)
            ratios.append(times[1] / times[0])
        return 100 * (statistics.median(ratios) - 1)
