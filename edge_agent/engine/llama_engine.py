"""START HERE for the engine: each step is one llama_decode over all requests that have something to decode.

Sequence ids, from 0: one per running request, one per label branch, one per task prefix, and one for idle rows.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

from edge_agent.core import pipe
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.environment import cores
from edge_agent.engine.active_request import ActiveRequest, RequestBuilder
from edge_agent.engine.answer.answer import InvalidOutputError
from edge_agent.engine.engine import Engine, count_start, count_step, too_long
from edge_agent.engine.llama import Llama, Piece
from edge_agent.engine.prompt.chat import Chat
from edge_agent.engine.prompt.chat_template import ChatError
from edge_agent.engine.prompt.task_prefixes import PrefixStore, TaskPrefixes
from edge_agent.engine.step import step_costs
from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.scheduler import WRITING_ROWS, Scheduler, StepPart, StepPolicy

log = logging.getLogger(__name__)

# The default: wide enough for every kernel, with 30 MB of buffers.
_BATCH_TOKENS = 256
# llama.cpp keeps a row of logits per sequence id: 0.6 MB with Qwen's vocabulary.
_BRANCHES = 6
_PREFIXES = 8
# Prefixes take at most this share of the cells.
_PREFIX_SHARE = 0.5


def open_context(load: pipe.Load, on_progress: Callable[[], object] = lambda: None) -> Llama:
    """The model of an engine with these settings. `on_progress` and exceptions are those of Llama."""
    settings = load.settings
    return Llama(
        load.model_path,
        context_tokens=settings.context_tokens,
        batch_tokens=settings.batch_tokens or _BATCH_TOKENS,
        sequences=settings.max_active + _BRANCHES + _PREFIXES + 1,
        adapters=[adapter.path for adapter in load.adapters],
        on_progress=on_progress,
    )


class LlamaEngine(Engine):
    """Over a GGUF model, warm when constructed. Raises LoadError if the model cannot be opened.

    Steps are measured only where load.state_dir keeps the result; otherwise they are the same on every machine.
    """

    def __init__(self, load: pipe.Load, on_progress: Callable[[], object] = lambda: None) -> None:
        self._llama = open_context(load, on_progress)
        self._max_active = self._max_running = active = load.settings.max_active
        self._builder = RequestBuilder(self._llama)
        self._request_ids = list(range(active))
        self._branch_ids = list(range(active, active + _BRANCHES))
        self._idle_id = self._llama.sequences - 1
        self._idle_token = max(self._llama.eos, 0)
        key = f"{load.weights_sha256}, {self._llama.build}"
        self._prefixes = TaskPrefixes(
            self._llama,
            range(active + _BRANCHES, self._idle_id),
            max_cells=int(self._llama.context_tokens * _PREFIX_SHARE),
            store=None if load.state_dir is None else PrefixStore(Path(load.state_dir) / "prefixes", key),
        )
        self._requests: dict[int, ActiveRequest] = {}  # By arrival.
        self._totals = pipe.Progress()
        # A first step touches every weight, so that no request waits for the disk.
        self._llama.decode([Piece(self._idle_id, 0, [self._idle_token], [0])], threads=cores())
        self._llama.forget(self._idle_id)
        on_progress()
        began = monotonic()
        policy = step_costs.load_or_measure_policy(load, self._llama, self._request_ids, self._idle_id)
        self._measure_s = monotonic() - began
        self._scheduler = Scheduler(
            policy, max_active=active, max_rows=self._llama.batch_tokens, max_outputs=self._llama.sequences
        )
        on_progress()
        self.set_tasks(load.tasks)
        self._prefixes.decode(self._unreserved_cells, threads=policy.threads(policy.prompt_batch_tokens))

    def ready(self, load_s: float) -> pipe.Ready:
        policy = self._policy
        return pipe.Ready(
            pid=os.getpid(),
            context_tokens=self._llama.context_tokens,
            max_active=self._max_active,
            threads=policy.threads(1),
            prefill_threads=policy.threads(policy.batch_tokens),
            batch_tokens=policy.batch_tokens,
            vocabulary=self._llama.vocabulary_size,
            cpu_variant=self._llama.cpu_variant,
            repacked_mib=self._llama.log.repacked_mib,
            load_s=load_s,
            measure_s=self._measure_s,
        )

    @property
    def _policy(self) -> StepPolicy:
        return self._scheduler.policy

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def has_priors(self) -> bool:
        return isinstance(self._builder.chat, Chat)

    @property
    def linger_s(self) -> float:
        return self._scheduler.linger_s(self._requests.values(), monotonic())

    @property
    def _running(self) -> int:
        return self._max_active - len(self._request_ids)

    @property
    def _unreserved_cells(self) -> int:
        """KV cells that no request has reserved. Prefixes may hold some of them."""
        return self._llama.context_tokens - sum(request.reserved_cells for request in self._requests.values())

    @property
    def _free_cells(self) -> int:
        return self._unreserved_cells - self._prefixes.cells

    def progress(self) -> pipe.Progress:
        return replace(self._totals, active=self._running)

    def set_tasks(self, tasks: tuple[pipe.TaskPrefix, ...]) -> None:
        if any(task.has_schema for task in tasks):
            # It takes a second to make at its first use, which is here, so that no request waits for it.
            _ = self._llama.json_tokenizer
        self._prefixes.set_prefixes({task.task: self._builder.chat.prefix(task) for task in tasks})

    def set_limits(self, limits: pipe.SetLimits) -> None:
        self._policy.limit(
            threads=limits.threads, prefill_threads=limits.prefill_threads, batch_tokens=limits.batch_tokens
        )
        limit = self._max_active if limits.max_active is None else limits.max_active
        self._max_running = min(self._max_active, limit)

    def add(self, engine_request: pipe.EngineRequest) -> pipe.Event | None:
        if engine_request.id in self._requests:
            raise ValueError(f"request id {engine_request.id} is in use")
        try:
            request = self._builder.build(engine_request)
        except Refusal as refused:
            return pipe.Failed(id=engine_request.id, code=refused.error.code, message=refused.error.message)
        except ChatError as error:
            message = f"input.messages: the model's chat template does not take them: {error}"
            return pipe.Failed(id=engine_request.id, code=Code.BAD_FIELD, message=message)
        except Exception as error:
            log.exception("request %d cannot be prepared", engine_request.id)
            return pipe.Failed(id=engine_request.id, code=Code.INTERNAL, message=str(error))
        prompt, extra = len(request.prompt), request.answer.max_cells(_BRANCHES)
        if prompt + extra > self._llama.context_tokens:
            return too_long(engine_request, prompt, extra, self._llama.context_tokens)
        self._requests[engine_request.id] = request
        self._scheduler.linger.request_added()
        self._start_waiting()
        return None

    def cancel(self, request_id: int) -> pipe.Event | None:
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._remove(request)
        return pipe.Cancelled(id=request_id)

    def step(self) -> list[pipe.Event]:
        self._start_waiting()
        self._start_branches()
        parts = self._scheduler.choose(self._requests.values())
        if not parts:
            return []
        began = monotonic()
        requests = list(dict.fromkeys(part.owner for part in parts))
        for request in requests:
            request.started_at = began if request.started_at is None else request.started_at
            request.batch = max(request.batch, len(requests))
        rows = self._decode(parts)
        decoded_at = monotonic()
        has_prefill = any(request.first_token_at is None for request in requests)
        tokens = sum(part.count for part in parts)
        running = self._running
        events: list[pipe.Event] = []
        for part, logits_rows in zip(parts, rows, strict=True):
            part.owner.engine_time_s += (decoded_at - began) * part.count / tokens
            events += self._advance(part, logits_rows, decoded_at)
        count_step(
            self._totals, requests=len(requests), tokens=tokens, elapsed_s=monotonic() - began, has_prefill=has_prefill
        )
        if ended := running - self._running:
            self._scheduler.linger.requests_ended(ended, running=running, step_s=decoded_at - began, now=monotonic())
        return events

    def _start_waiting(self) -> None:
        """Starts requests by arrival while there is a place, and room for the worst case of the next one."""
        for request in self._requests.values():
            if request.sequence is None and (self._running >= self._max_running or not self._start(request)):
                return

    def _start(self, request: ActiveRequest) -> bool:
        task = request.engine_request.task
        prefix, shared = self._prefixes.find_or_restore(task, request.prompt, self._unreserved_cells)
        cells = len(request.prompt) + request.answer.max_cells(_BRANCHES)
        if cells - shared > self._free_cells:
            if self._running:
                return False
            # Alone, any request fits.
            self._prefixes.drop_idle()
            prefix, shared = None, 0
        request.reserved_cells = cells - shared
        sequence = request.start(self._request_ids.pop(), shared)
        if prefix is not None:
            self._prefixes.share(prefix, sequence.seq_id, shared)
            request.prefix = prefix
        count_start(self._totals, shared)
        return True

    def _start_branches(self) -> None:
        """Gives free sequences to the label branches of requests whose prompt is decoded."""
        for request in self._requests.values():
            if request.sequence is None or request.first_token_at is None:
                continue
            while request.branches_left and self._branch_ids:
                branch = request.start_branch(self._branch_ids.pop())
                self._llama.share(request.sequence.seq_id, branch.seq_id, branch.decoded)

    def _decode(self, parts: list[StepPart]) -> list[list[int]]:
        """One pass; the rows of each part's logits.

        Raises DecodeError, which ends the worker: the agent starts another one, and its requests again.
        """
        pieces = [part.sequence.piece(part.count) for part in parts]
        tokens = sum(part.count for part in parts)
        # Idle rows speed a step up: 3 rows can take longer than 4, for which a different kernel runs.
        padding = self._policy.padded(tokens) - tokens
        idle: list[Piece] = []
        if 0 < padding <= self._free_cells:
            tokens += padding
            outputs = range(padding) if tokens <= WRITING_ROWS else ()
            idle = [Piece(self._idle_id, 0, [self._idle_token] * padding, outputs)]
        starts = self._llama.decode([*pieces, *idle], threads=self._policy.threads(tokens))
        self._llama.forget(self._idle_id)
        return [[start + offset for offset in piece.outputs] for piece, start in zip(pieces, starts, strict=False)]

    def _advance(self, part: StepPart, rows: list[int], now: float) -> list[pipe.Event]:
        """Updates a part's owner once its tokens are decoded; returns the events that this causes."""
        request, sequence = part.owner, part.sequence
        before = sequence.decoded
        sequence.decoded += part.count
        if request.first_token_at is None:
            # The decided beginning of the answer is not prompt.
            self._totals.prompt_tokens_total += max(min(sequence.decoded, len(request.prompt)) - before, 0)
        # A branch of the same request may have ended it in this step.
        if request.engine_request.id not in self._requests:
            return []
        try:
            if rows and request.first_token_at is None:
                request.first_token_at = now
                task = request.engine_request.task
                self._prefixes.keep(task, request.prompt, sequence.seq_id, self._unreserved_cells)
            return self._read(request, sequence, rows)
        except InvalidOutputError as error:
            code, message = Code.NO_VALID_OUTPUT, str(error)
        except Exception as error:
            # A fault of one request must not reach the others.
            log.exception("request %d failed", request.engine_request.id)
            code, message = Code.INTERNAL, str(error) or type(error).__name__
        self._remove(request)
        return [pipe.Failed(id=request.engine_request.id, code=code, message=message)]

    def _read(self, request: ActiveRequest, sequence: CacheSequence, rows: list[int]) -> list[pipe.Event]:
        """Gives the answer its logits. Raises InvalidOutputError, NumericError."""
        answer = request.answer
        before = answer.completion_tokens
        answer.read(sequence, rows)
        self._totals.completion_tokens_total += answer.completion_tokens - before
        if not sequence.is_branch:
            self._llama.cut(sequence.seq_id, sequence.decoded)
        elif not sequence.pending:
            request.branches.remove(sequence)
            self._release_branch(sequence)
        result = None if answer.finish is None else answer.result()
        events: list[pipe.Event] = []
        if request.engine_request.stream and (delta := answer.take_delta()):
            events.append(pipe.Partial(id=request.engine_request.id, delta=delta))
        if answer.finish is not None and result is not None:
            self._remove(request)
            finished = request.finished(
                answer.finish,
                prompt_crc32=self._builder.prompt_crc32(request.prompt),
                odd_fields=request.odd_fields,
                rare_fields=request.rare_fields,
                unlike=request.unlike,
                **result,
            )
            events.append(finished)
        return events

    def _remove(self, request: ActiveRequest) -> None:
        """Gives back what the request holds of the context."""
        del self._requests[request.engine_request.id]
        for branch in request.branches:
            self._release_branch(branch)
        if request.sequence is not None:
            self._llama.forget(request.sequence.seq_id)
            self._request_ids.append(request.sequence.seq_id)
        if request.prefix is not None:
            self._prefixes.release(request.prefix)

    def _release_branch(self, branch: CacheSequence) -> None:
        self._llama.forget(branch.seq_id)
        self._branch_ids.append(branch.seq_id)
