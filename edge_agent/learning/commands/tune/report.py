"""What `tune` found: as text, as a document, and as keys for the configuration."""

import math
from collections.abc import Iterator
from typing import Any

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.terminal import aligned
from edge_agent.learning.commands.tune.judge import Candidate, Correction, log_loss_gain
from edge_agent.learning.commands.tune.prompts import AS_CONFIGURED
from edge_agent.learning.commands.tune.search import Search
from edge_agent.requests.tasks import Task
from edge_agent.tools.toml import toml, toml_key

_FEW_ROWS = 50


def document(result: Search) -> dict[str, Any]:
    """Every prompt with each correction; the name of each key has its unit."""
    return {
        "rows": result.judged,
        "chosen": _row(result, result.chosen),
        "is_proved": result.is_proved(),
        "tried": [_row(result, candidate) for candidate in result.tried],
        "slower": [{"max_slower": limit, **_row(result, candidate)} for limit, candidate in result.slower_choices()],
        "skipped": result.skipped,
        "untried": result.untried,
    }


def _row(result: Search, candidate: Candidate) -> dict[str, Any]:
    return {
        "prompt": candidate.trial.prompt.name,
        "correction": str(candidate.correction),
        "rows": len(candidate.rows),
        "accuracy": round(candidate.accuracy, 4),
        "accuracy_before": round(result.accuracy_before(candidate), 4),
        "accuracy_95": [round(limit, 4) for limit in candidate.interval],
        "log_loss": round(candidate.log_loss, 4),
        "calibration_error": round(candidate.calibration_error, 4),
        "log_loss_gain": round(log_loss_gain(candidate, result.reference)[0], 4),
        "prefix_tokens": candidate.trial.prefix_tokens,
        "ms": round(result.ms(candidate), 1),
        "slower_percent": round(100 * (candidate.trial.slowdown - 1), 1),
        "is_in_force": candidate is result.reference,
    }


def table(result: Search) -> list[str]:
    """All corrections of the configured prompt, and the best one of each other prompt."""
    others = dict[str, Candidate]()
    for candidate in result.tried:
        name = candidate.trial.prompt.name
        gain = log_loss_gain(candidate, result.reference)
        if name not in others or gain > log_loss_gain(others[name], result.reference):
            others[name] = candidate
    shown = [candidate for candidate in result.tried if candidate.trial.prompt.name == AS_CONFIGURED]
    shown += [candidate for name, candidate in others.items() if name != AS_CONFIGURED]
    if result.chosen not in shown:
        shown.append(result.chosen)
    head = ("", "prompt", "scores", "rows", "right", "95 %", "before", "log loss", "calibration error", "prefix", "ms")
    rows = [
        (
            "*" if candidate is result.chosen else "·" if candidate is result.reference else "",
            candidate.trial.prompt.name,
            str(candidate.correction),
            str(len(candidate.rows)),
            f"{candidate.accuracy:.0%}",
            "{:.0%} – {:.0%}".format(*candidate.interval),
            f"{result.accuracy_before(candidate):.0%}",
            f"{candidate.log_loss:.2f}",
            f"{candidate.calibration_error:.2f}",
            str(candidate.trial.prefix_tokens),
            f"{result.ms(candidate):.0f}",
        )
        for candidate in shown
    ]
    return aligned([head, *rows], left=3)


def words(result: Search, max_slower: float) -> Iterator[str]:
    yield "· marks what is in force, * what is chosen. No prompt is judged on rows that it shows as examples."
    yield "`scores`: how they are corrected. A `map` is fitted to the rows; that `of prior` starts from `prior`."
    yield "`before`: how often what is in force is right on the same rows."
    yield "`log loss`: lower is better; it is 0 if every right label scores 1. It decides between corrections."
    yield "The simplest prompt is chosen that no other beats by more than chance, in log loss or in right answers."
    yield "`prefix`: tokens that requests share. `ms`: the median of a request that runs alone."
    chosen, reference = result.chosen, result.reference
    if chosen is reference:
        yield "No other prompt is better by more than chance, and no other correction at all: keep what is in force."
    elif not result.is_proved():
        yield f"{result.judged} rows are too few to say whether the chosen one is better than what is in force."
    else:
        yield (
            f"The chosen one is right on {chosen.accuracy:.0%} of its rows; what is in force is right on "
            f"{result.accuracy_before(chosen):.0%} of them. Its log loss is lower by more than chance."
        )
    if chosen is not reference and (never := chosen.never_answered):
        yield f"The chosen one answers none of these rows with {', '.join(never)}: more rows with them would help."
    labels = reference.trial.prompt.config.labels
    if missing := [label for label in labels if label not in reference.answers]:
        yield f"No row is labelled {', '.join(missing)}, so the choice may never give that answer."
    if result.judged < _FEW_ROWS:
        yield f"With {_FEW_ROWS} rows or more the choice is more certain."
    for limit, slow in result.slower_choices():
        yield (
            f"Not chosen because it takes {slow.trial.slowdown - 1:.0%} more time (--max-slower {max_slower:g}): "
            f"{_compared(result, slow)} To get it: --max-slower {limit}."
        )
    if (lucky := result.most_accurate()) is not None:
        yield f"Right more often, perhaps by chance: {_compared(result, lucky)} More rows would tell."
    if any(candidate.correction is Correction.MEAN for candidate in result.tried):
        yield f"`{Correction.MEAN}` assumes that all labels are equally frequent."
    for name, reason in result.skipped.items():
        yield f"Skipped: {name}: {reason}"
    if result.untried:
        minutes = math.ceil(len(result.untried) * result.prompt_s / 60)
        yield (
            f"No time was left for {len(result.untried)} prompts, such as {result.untried[0]}. "
            f"They need about {minutes} more minutes (--minutes)."
        )


def _compared(result: Search, candidate: Candidate) -> str:
    return (
        f"{candidate.trial.prompt.name}, {candidate.correction}, right on {candidate.accuracy:.0%} of its rows; the "
        f"chosen one is right on {result.accuracy_of_chosen(candidate):.0%} of them."
    )


def shares(corrected: dict[str, list[str]], labels: tuple[str, ...]) -> list[str]:
    rows = [(name, *(f"{best.count(label) / len(best):.0%}" for label in labels)) for name, best in corrected.items()]
    return aligned([("scores", *labels), *rows])


def fragment(task: Task, chosen: Candidate, weights_sha256: str, about: str) -> str:
    """The keys of the task that change. `about` is a line on what they are worth."""
    config, now = chosen.trial.prompt.config, task.config
    assert isinstance(now, ClassifyTask)
    lines = [f"# {about}", f"# Put these keys into [tasks.{task.name}], instead of those with the same names."]
    if now.score_map is not None and chosen.correction is not Correction.CONFIGURED:
        lines.append(f"# Remove [tasks.{task.name}.score_map] if it is not below.")
    lines += ["", f"[tasks.{task.name}]"]
    if config.system != now.system:
        lines.append(f"system = {toml(config.system)}")
    if (prior := _prior(now, chosen.correction)) is not None:
        lines.append(f"prior = {toml(prior)}")
    if config.examples_as != now.examples_as:
        lines.append(f"examples_as = {toml(config.examples_as)}")
    if config.examples != now.examples:
        if not config.examples:
            lines.append("examples = []")
        for example in config.examples:
            lines += ["", f"[[tasks.{task.name}.examples]]"]
            lines += [f"input = {toml(example.input)}", f"answer = {toml(example.answer)}"]
    if chosen.correction in (Correction.MEAN, Correction.MAP, Correction.MAP_OF_PRIOR):
        lines += ["", *_score_map(task.name, chosen, Task(task.name, config).basis_for(weights_sha256))]
    return "\n".join(lines) + "\n"


def _prior(now: ClassifyTask, correction: Correction) -> str | None:
    """The value of `prior` that puts the correction in force; None if it can stay as it is."""
    if correction is Correction.PRIOR and not now.always_corrects_prior:
        return "corrected"
    return "as-is" if correction is Correction.AS_IS and now.measures_prior else None


def _score_map(name: str, chosen: Candidate, made_for: str) -> Iterator[str]:
    assert chosen.score_map is not None
    labels = chosen.score_map.labels
    yield "# Used only while the model and the task's definition stay the same."
    yield f"[tasks.{name}.score_map]"
    yield f"made_for = {toml(made_for)}"
    for key, numbers in (("scale", chosen.score_map.scales), ("bias", chosen.score_map.biases)):
        pairs = ", ".join(
            f"{toml_key(label)} = {toml(round(number, 4))}" for label, number in zip(labels, numbers, strict=True)
        )
        yield f"{key} = {{ {pairs} }}"
