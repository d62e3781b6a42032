"""PURE. How a request ended, as its caller is told: made of what the worker said, or of why it never ran."""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.core.messages import Code, Error, ModelName, Outcome, Status, Timing, Usage
from edge_agent.core.protocol import Cancelled, Failed, FailureCode, Finished, RefusalCode, Refused
from edge_agent.requests.request_queue import Request
from edge_agent.requests.tasks import output_of

# A worker's last word on a request.
Answer = Finished | Refused | Failed | Cancelled


def refused(request: Request, error: Error, now: float) -> Outcome:
    return Outcome.refused(error, _timing(request, now))


def deadline_passed(request: Request) -> Error:
    return Error(code=Code.DEADLINE, message=f"{request.deadline} has passed")


def finished(
    request: Request,
    event: Finished,
    now: float,
    *,
    model: ModelName | None,
    limits: Iterable[str],
    energy_j: float | None,
) -> Outcome:
    """limits: what the agent may not do now, if the answer may be less for it."""
    output = output_of(event, request.min_score)
    is_unsure = event.scores is not None and output is None
    return Outcome(
        status=Status.OK,
        output=output,
        scores=event.scores and {label: round(p, 6) for label, p in event.scores.items()},
        finish=event.finish.value,
        reasoning=event.reasoning if request.include_reasoning else None,
        degraded=(*(["unsure"] if is_unsure else []), *limits),
        model=model,
        usage=Usage(
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            completion_tokens=event.completion_tokens,
            energy_j=energy_j,
        ),
        timing=_timing(request, now, event),
    )


def unfinished(request: Request, event: Refused | Failed | Cancelled, now: float) -> Outcome:
    match event:
        case Refused(code=RefusalCode.TOO_LONG, message=message):
            code = Code.TOO_LONG
        case Refused(message=message):
            code = Code.BAD_FIELD
        case Failed(code=FailureCode.NO_VALID_OUTPUT, message=message):
            code = Code.NO_VALID_OUTPUT
        case Failed(message=message):
            code = Code.INTERNAL
        case Cancelled():
            code, message = Code.INTERNAL, "the engine gave the request up unasked"
    return refused(request, Error(code=code, message=message), now)


def _timing(request: Request, now: float, event: Finished | None = None) -> Timing:
    started_at = event.started_at if event else request.started_at
    return Timing(
        queued_ms=((now if started_at is None else started_at) - request.arrived_at) * 1000,
        prefill_ms=event.prefill_ms if event else None,
        decode_ms=event.decode_ms if event else None,
        total_ms=(now - request.arrived_at) * 1000,
        batch=event.batch if event else None,
    )
