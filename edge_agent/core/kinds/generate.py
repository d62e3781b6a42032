"""The kind `generate`: text."""

from typing import Literal

from edge_agent.core.envelope import Options, Reasoning, ReasoningTokens
from edge_agent.core.kinds.task import SampledTask
from edge_agent.core.pipe import Finished, Plan, TextPlan


class GenerateTask(SampledTask):
    """Answers with text.

    The task `generate` is built in: `[tasks.generate]` sets its defaults, and needs no `kind`.
    """

    kind: Literal["generate"]
    """What an answer is."""
    reasoning: Reasoning = "drop"
    """`include`: the reply has what a reasoning model wrote before its answer. A request may set its own."""
    max_reasoning_tokens: ReasoningTokens | None = None
    """The maximum number of reasoning tokens, counted in `max_tokens`. 0 turns reasoning off. A request may set
    its own. Default: half of `max_tokens`."""

    is_text = True
    canary_part = "beginning"

    def plan(self, options: Options) -> Plan:
        return TextPlan(stop=options.stop)

    def output_of(self, event: Finished) -> str | None:
        return event.text

    def answer_fault(self, answer: object) -> str | None:
        return None if isinstance(answer, str) else "answer: should be a string"
