"""A new model answers its predecessor's audits before it comes into force, so that they count for its promise, too.

It gets only audits that came after all that its training used. Others would be chosen by what training left out, and
so would be no fair sample.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edge_agent.core.codes import Refusal
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import EngineRequest, Failed, Finished
from edge_agent.core.strict_json import parse_json
from edge_agent.gguf.field_table import FINGERPRINT_BYTES, fingerprint
from edge_agent.learning.answers import KeptAnswer
from edge_agent.requests.tasks import Task

# Of each task, as many as a promise of 0.99 takes. A trained model answers them within seconds.
MAX_REQUESTS = 500
# The most seconds of a switch, during which requests may have to wait.
MAX_S = 20.0


def unused_audits(tasks: Iterable[tuple[Task, Sequence[KeptAnswer], bytes]]) -> Iterator[EngineRequest]:
    """Requests for the inputs of audits, numbered as these, the newest first; whether answered or not.

    `tasks` have answers in the order of time, and the fingerprints of what training used. This is not for the agent's
    thread, because it renders templates, which the renderer has rendered within its limits before.
    """
    ends_at = time.monotonic() + MAX_S
    for task, answers, learnt in tasks:
        used = {learnt[at : at + FINGERPRINT_BYTES] for at in range(0, len(learnt), FINGERPRINT_BYTES)}
        count = 0
        for answer in reversed(answers):
            if (request := _request(task, answer)) is None:
                continue
            if answer.is_marked and fingerprint(request.messages[-1].content) in used:
                break
            if count == MAX_REQUESTS or time.monotonic() > ends_at:
                break
            if answer.is_audit:
                count += 1
                yield request


def answered_again(
    answers: Sequence[KeptAnswer], events: Iterable[Finished | Failed], config: ClassifyTask
) -> list[KeptAnswer]:
    """The audits with the new model's scores; their outputs stay what callers got and judge."""
    labels, by_number = set(config.labels), {event.id: event for event in events if isinstance(event, Finished)}
    again = []
    for answer in answers:
        event = by_number.get(answer.number)
        if event is not None and event.scores is not None and event.scores.keys() == labels:
            scores, rare, refused = event.scores, event.rare_fields, config.refuses(event)
            tokens = event.prompt_tokens
            again.append(replace(answer, scores=scores, tokens=tokens, rare_fields=rare, is_refused=refused))
    return again


def _request(task: Task, answer: KeptAnswer) -> EngineRequest | None:
    """The request; None without a kept input, and where the template does not take it."""
    if answer.input is None:
        return None
    try:
        return task.build_engine_request(answer.number, Envelope(input=parse_json(answer.input.decode())))
    except (ValueError, Refusal):  # Damage has changed it.
        return None
