"""Tries one prompt after another while there is time, and chooses one."""

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from edge_agent.core.codes import Refusal
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Failed, Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.wording import shown
from edge_agent.learning.commands.tune.judge import (
    Candidate,
    Correction,
    PromptTrial,
    accuracy_gain,
    candidates,
    choose,
    dividing_by_mean,
    log_loss_gain,
)
from edge_agent.learning.commands.tune.prompts import AS_CONFIGURED, Plan, Prompt, can_be_example
from edge_agent.learning.maths.calibration import share_right
from edge_agent.requests.collapse import is_collapsed
from edge_agent.requests.rows import TaskRow
from edge_agent.requests.tasks import Task, prefixes_of
from edge_agent.worker.client import WorkerClient

Say = Callable[[str], None]
MIN_ROWS = 20
# More rows are judged only where this many prompts can be tried all the same.
_PROMPTS = 10
# Every third row is also asked with the configured prompt, so that whatever else the machine does slows both alike.
_PAIR_EVERY = 3
# How many pairs of times are measured for a prompt before it is chosen.
_PAIRS = 30
# Inputs without labels that are asked.
_MAX_INPUTS = 100


class TuneError(Exception):
    """The task cannot be tuned with these rows; the message says why."""


@dataclass(slots=True, kw_only=True)
class Search:
    """The search for one task, and what it found."""

    worker: WorkerClient
    task: Task
    rows: Sequence[TaskRow]  # Labelled; those that the configured task shows as examples are not judged.
    weights_sha256: str
    until: float  # On the monotonic clock.
    max_slower: float  # How much more time a chosen prompt may take, in percent.
    say: Say
    unlabelled: Sequence[Any] = ()
    wordings: Sequence[str] = ()
    chosen: Candidate = field(init=False)  # What the agent should do.
    skipped: dict[str, str] = field(default_factory=dict)  # Prompts that the model cannot be asked with, and why.
    untried: list[str] = field(default_factory=list)  # Prompts for which there was no time.
    prompt_s: float = 0.0  # How long the last prompt took.
    _judged: Sequence[int] = ()
    _trials: dict[str, PromptTrial] = field(default_factory=dict)
    _tried: dict[str, list[Candidate]] = field(default_factory=dict)
    _configured: Prompt = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.task.config, ClassifyTask)
        self._configured = Prompt(AS_CONFIGURED, self.task.config)
        shown = [example.input for example in self.task.config.examples]
        kept = [row for row in self.rows if row.input not in shown]
        if len(kept) < MIN_ROWS:
            raise TuneError(f"should have at least {MIN_ROWS} labelled rows with different inputs (got {len(kept)})")
        self.rows = random.Random(0).sample(kept, len(kept))  # noqa: S311 - a reproducible order

    def run(self) -> None:
        """Raises TuneError, WorkerError. Ctrl-C ends the search, not the run."""
        self._judged = range(self._affordable_rows())
        rest = range(len(self._judged), len(self.rows))
        pool = rest if len(rest) >= len(self._judged) else range(len(self.rows))
        examples = [number for number in pool if can_be_example(self.rows[number].input)]
        prompts = Plan(self._configured.config, self.rows, examples, self.wordings).prompts(self)
        try:
            self._ask_while_there_is_time(prompts)
        except KeyboardInterrupt:
            # What is known by now is the result.
            if not self._tried:
                raise
        self.untried += [prompt.name for prompt in prompts]
        self.chosen = self._best_fast()

    @property
    def tried(self) -> list[Candidate]:
        """Every prompt, with each correction."""
        return [candidate for candidates in self._tried.values() for candidate in candidates]

    @property
    def reference(self) -> Candidate:
        """What the agent does now."""
        corrected = {candidate.correction: candidate for candidate in self._tried[AS_CONFIGURED]}
        in_force = Correction.PRIOR if self._is_prior_corrected else Correction.AS_IS
        return corrected.get(Correction.CONFIGURED) or corrected.get(in_force) or corrected[Correction.AS_IS]

    @property
    def _is_prior_corrected(self) -> bool:
        """Whether a board that has answered many such rows divides its scores by the prior."""
        config, trial = self._configured.config, self._trials[AS_CONFIGURED]
        if config.always_corrects_prior or not config.measures_prior or trial.prior is None:
            return config.always_corrects_prior
        return is_collapsed(trial.scores.values(), ScoreMap.dividing_by(trial.prior))

    def best(self) -> Prompt:
        return self._best_fast().trial.prompt

    def _best_fast(self) -> Candidate:
        return self._best_within(self.max_slower)

    def _best_within(self, max_slower: float) -> Candidate:
        fast = [candidate for candidate in self.tried if candidate.trial.slowdown <= 1 + max_slower / 100]
        return choose(fast, self.reference)

    def slower_choices(self) -> list[tuple[int, Candidate]]:
        """Choices that a higher `max_slower` would allow and that are right more often, each with its lowest value."""
        percents = (100 * (trial.slowdown - 1) for trial in self._trials.values())
        # Rounded up to the next ten, because another run measures other times.
        limits = sorted({10 * (math.floor(percent / 10) + 1) for percent in percents if percent > self.max_slower})
        found, last = list[tuple[int, Candidate]](), self.chosen
        for limit in limits:
            best = self._best_within(limit)
            if best is not last and accuracy_gain(best, last)[0] > 0:
                found.append((limit, best))
                last = best
        return found

    def most_accurate(self) -> Candidate | None:
        """The fast candidate that is right most often, if this is more often than the chosen one on the same rows."""
        fast = [candidate for candidate in self.tried if self.is_fast_enough(candidate.trial.prompt)]
        best = max(fast, key=lambda candidate: accuracy_gain(candidate, self.chosen)[0])
        return best if accuracy_gain(best, self.chosen)[0] > 0 else None

    @property
    def judged(self) -> int:
        """How many rows are judged."""
        return len(self._judged)

    def is_fast_enough(self, prompt: Prompt) -> bool:
        trial = self._trials.get(prompt.name)
        return trial is not None and trial.slowdown <= 1 + self.max_slower / 100

    def accuracy_before(self, candidate: Candidate) -> float:
        """The reference's accuracy on the same rows."""
        return _accuracy_on(candidate.rows, self.reference)

    def accuracy_of_chosen(self, candidate: Candidate) -> float:
        """The chosen one's accuracy on those of these rows that it does not show."""
        return _accuracy_on(candidate.rows & self.chosen.rows, self.chosen)

    def ms(self, candidate: Candidate) -> float:
        return self._base_ms * candidate.trial.slowdown

    def is_proved(self) -> bool:
        """Whether the chosen one's log loss is lower than what the agent has now, by two standard errors."""
        mean, error = log_loss_gain(self.chosen, self.reference)
        return mean > 2 * error

    def _ask_while_there_is_time(self, prompts: Iterator[Prompt]) -> None:
        for prompt in prompts:
            # Counts as untried until it has been asked.
            self.untried = [prompt.name]
            # What is left is for the last measurements of time.
            if self._trials and monotonic() + 1.2 * self.prompt_s > self.until - 2 * _PAIRS * self._base_ms / 1000:
                break
            began = monotonic()
            try:
                self._ask(prompt)
            except TuneError as error:
                if prompt.name == AS_CONFIGURED:
                    raise
                self.skipped[prompt.name] = str(error)
            self.prompt_s, self.untried = monotonic() - began, []
        while (unsure := self._unsure_of_time()) is not None and monotonic() < self.until:
            self._time(unsure, _PAIRS - len(unsure.pairs_ms))

    @property
    def _base_ms(self) -> float:
        """The time of a request as configured."""
        return statistics.median(base for trial in self._trials.values() for base, _ in trial.pairs_ms)

    def _affordable_rows(self) -> int:
        """All rows, or as many as leave time for some prompts, judged by the fastest of five requests."""
        self._set_prompts(self._configured)
        row_s = min(self._timed(self.task, self.rows[number].input)[1] for number in range(5)) / 1000
        max_rows = (self.until - monotonic()) / _PROMPTS / (row_s * (1 + 1 / _PAIR_EVERY))
        return min(len(self.rows), max(round(max_rows), 50))

    def _set_prompts(self, prompt: Prompt) -> tuple[Task, Task, dict[str, float] | None]:
        """Prepares the worker for the configured task and for this one; gives both, and the prior of this one."""
        base, task = self._variant(self._configured), self._variant(prompt)
        tasks = {variant.definition: variant for variant in (base, task)}
        try:
            priors = self.worker.set_tasks(prefixes_of(tasks.values()))
        except Refusal as refused:
            raise TuneError(refused.error.message) from refused
        return base, task, priors.get(task.definition)

    def _variant(self, prompt: Prompt) -> Task:
        name = self.task.name if prompt.name == AS_CONFIGURED else f"{self.task.name}: {prompt.name}"
        return Task(name, prompt.config).with_prior_correction()

    def _ask(self, prompt: Prompt) -> None:
        base, task, prior = self._set_prompts(prompt)
        scores = dict[int, dict[str, float]]()
        trial = PromptTrial(prompt, task.definition, prior, scores)
        judged = [number for number in self._judged if number not in prompt.examples]
        # The first request decodes what all share.
        self._timed(task, self.rows[judged[0]].input)
        for place, number in enumerate(judged):
            self._say_progress(prompt, f"row {place + 1} of {len(judged)}")
            value = self.rows[number].input
            event, own_ms = self._timed(task, value)
            assert event.scores is not None
            scores[number] = event.scores
            trial.prefix_tokens = max(trial.prefix_tokens, event.cached_tokens)
            if prompt.name == AS_CONFIGURED:
                trial.pairs_ms.append((own_ms, own_ms))
            elif place % _PAIR_EVERY == 0:
                trial.pairs_ms.append((self._timed(base, value)[1], own_ms))
        self._trials[prompt.name] = trial
        if self.is_fast_enough(prompt):
            runs = (task.build_engine_request(0, Envelope(input=value)) for value in self.unlabelled[:_MAX_INPUTS])
            events = self.worker.ask_all(runs, at_once=1)
            trial.unlabelled = [
                event.scores for event in events if isinstance(event, Finished) and event.scores is not None
            ]
        is_in_force = trial.definition == self.task.definition and self.task.has_map_for(self.weights_sha256)
        answers, configured_map = [row.answer for row in self.rows], self.task.score_map if is_in_force else None
        self._tried[prompt.name] = candidates(trial, answers, configured_map)

    def _timed(self, task: Task, value: Any) -> tuple[Finished, float]:
        """The answer, and the milliseconds until it came."""
        began = monotonic()
        return _ask(self.worker, task, value), (monotonic() - began) * 1000

    def _unsure_of_time(self) -> PromptTrial | None:
        """A prompt that would be chosen if it is fast enough, but was timed too rarely to tell."""
        for candidate in (choose(self.tried, self.reference), self._best_fast()):
            if candidate.trial.prompt.name != AS_CONFIGURED and len(candidate.trial.pairs_ms) < _PAIRS:
                return candidate.trial
        return None

    def _time(self, trial: PromptTrial, pairs: int) -> None:
        base, task, _ = self._set_prompts(trial.prompt)
        self._timed(task, self.rows[self._judged[0]].input)
        for place in range(pairs):
            self._say_progress(trial.prompt, f"time, {place + 1} of {pairs}")
            value = self.rows[self._judged[place % len(self._judged)]].input
            trial.pairs_ms.append((self._timed(base, value)[1], self._timed(task, value)[1]))

    def _say_progress(self, prompt: Prompt, position: str) -> None:
        left_s = max(self.until - monotonic(), 0)
        self.say(f"{prompt.name}: {position}, {left_s / 60:.0f} min left")


def _accuracy_on(rows: frozenset[int], candidate: Candidate) -> float:
    return share_right(list(candidate.judged_on(rows).values()))


def best_labels(
    worker: WorkerClient, task: Task, inputs: Sequence[Any], until: float, say: Say
) -> dict[str, list[str]]:
    """By correction, the best label of each input that there is time for. Raises TuneError, WorkerError."""
    task = task.with_prior_correction()
    prior = worker.set_tasks((task.prefix(),)).get(task.definition)
    raw = list[dict[str, float]]()
    for number, value in enumerate(inputs, start=1):
        if raw and monotonic() > until:
            break
        say(f"inputs: {number} of {len(inputs)}")
        raw.append(_ask(worker, task, value).scores or {})
    maps = {Correction.AS_IS: ScoreMap.identity(tuple(raw[0]))}
    if prior is not None:
        maps[Correction.PRIOR] = ScoreMap.dividing_by(prior)
    maps[Correction.MEAN] = dividing_by_mean(raw)
    return {str(name): [score_map.best(scores)[0] for scores in raw] for name, score_map in maps.items()}


def _ask(worker: WorkerClient, task: Task, value: Any) -> Finished:
    """Raises TuneError, WorkerError."""
    try:
        run = task.build_engine_request(1, Envelope(input=value))
    except Refusal as refused:
        raise TuneError(f"input {shown(value)}: {refused.error.message}") from refused
    event = worker.ask(run)
    if isinstance(event, Failed):
        raise TuneError(f"input {shown(value)}: {event.message}")
    return event
