from __future__ import annotations

from dataclasses import replace

from edge_agent.core.protocol import ChatMessage, Run, TextPlan
from edge_agent.requests.quarantine import fingerprint

RUN = Run(id=1, task="triage", messages=(ChatMessage(role="user", content="text"),), plan=TextPlan())


def test_a_fingerprint_depends_on_task_and_prompt_alone() -> None:
    assert fingerprint(RUN) == fingerprint(replace(RUN, id=2, max_tokens=7, stream=True))
    others = (
        replace(RUN, task="other"),
        replace(RUN, messages=(ChatMessage(role="user", content="tex"),)),
        replace(RUN, messages=(ChatMessage(role="system", content="text"),)),
    )
    assert len({fingerprint(run) for run in (RUN, *others)}) == 4
