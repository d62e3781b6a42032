"""What to put into the configuration, as commented TOML."""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.learning.commands.tune.judge import Candidate, Correction
from edge_agent.requests.tasks import Task
from edge_agent.tools.toml import toml, toml_key


def fragment(task: Task, chosen: Candidate, weights_sha256: str, about: str) -> str:
    """The keys of the task that change. about: a line on what they are worth."""
    config, now = chosen.asked.prompt.config, task.config
    assert isinstance(now, ClassifyTask)
    lines = [f"# {about}", f"# Put these keys into [tasks.{task.name}], in place of those of the same name."]
    if now.score_map is not None and chosen.correction is not Correction.CONFIGURED:
        lines.append(f"# Remove [tasks.{task.name}.score_map], if it is not below.")
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
    """The value of `prior` that puts the correction in force; None = as it is."""
    if correction is Correction.PRIOR and not now.corrects_prior:
        return "corrected"
    return "as-is" if correction is Correction.AS_IS and now.corrects_prior else None


def _score_map(name: str, chosen: Candidate, made_for: str) -> Iterator[str]:
    assert chosen.score_map is not None
    labels = chosen.score_map.labels
    yield "# Used only while model and definition of the task are the same."
    yield f"[tasks.{name}.score_map]"
    yield f"made_for = {toml(made_for)}"
    for key, numbers in (("scale", chosen.score_map.scales), ("bias", chosen.score_map.biases)):
        pairs = ", ".join(
            f"{toml_key(label)} = {toml(round(one, 4))}" for label, one in zip(labels, numbers, strict=True)
        )
        yield f"{key} = {{ {pairs} }}"
