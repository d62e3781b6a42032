"""START HERE for the engine: each step is one llama_decode over all requests that have something to decode.

Sequence ids, from 0: one per running request, one per label branch, one per task prefix, and one for idle rows.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from time import monotonic

from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.messages import Code
from edge_agent.core.protocol import (
    Cancelled,
    EngineSettings,
    Event,
    Failed,
    Finish,
    Finished,
    Load,
    LoadPhase,
    Partial,
    Progress,
    Ready,
    Run,
    SetLimits,
    TaskPrefix,
)
from edge_agent.engine.active_request import ActiveRequest
from edge_agent.engine.answer.json_answer import InvalidOutputError, JsonAnswer
from edge_agent.engine.answer.labels import LabelAnswer
from edge_agent.engine.answer.text_answer import TextAnswer
from edge_agent.engine.engine import Totals, too_long
from edge_agent.engine.llama import ContextSizes, DecodeAbortedError, DecodeError, Llama, Piece
from edge_agent.engine.prompt.chat_template import ChatError
from edge_agent.engine.prompt.prefix_store import PrefixStore
from edge_agent.engine.prompt.task_prefixes import Prefix, TaskPrefixes
from edge_agent.engine.request_builder import RequestBuilder
from edge_agent.engine.step import calibration
from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.next_step import NextStep, StepPart
from edge_agent.engine.step.scheduler import Admission, Linger, Reservation
from edge_agent.engine.step.step_policy import WRITING_ROWS, StepPolicy

log = logging.getLogger(__name__)

# The default: wide enough for every kernel, with 30 MB of buffers.
_BATCH_TOKENS = 256
# llama.cpp keeps a row of logits per sequence id: 0.6 MB with Qwen's vocabulary.
_BRANCHES = 6
_PREFIXES = 8
# Prefixes take at most this share of the cells.
_PREFIX_SHARE = 0.5

# On x86 agent, broker and client need about 2 ms for an answer and the next request together.
_LINGER_SHARE = 0.3
_LINGER_WAY_S = 0.004


def context_sizes(settings: EngineSettings) -> ContextSizes:
    """The context that an engine with these settings opens."""
    sequences = settings.max_active + _BRANCHES + _PREFIXES + 1
    return ContextSizes(
        context_tokens=settings.context_tokens,
        batch_tokens=settings.batch_tokens or _BATCH_TOKENS,
        sequences=sequences,
        outputs=sequences,
    )


class LlamaEngine:
    """An Engine over a GGUF model, warm when constructed. Raises LoadError if the model cannot be opened.

    is_measured: False = its steps are not measured, and are the same on every machine.
    """

    def __init__(self, load: Load, *, is_measured: bool = True, progress: LoadProgress | None = None) -> None:
        progress = progress or LoadProgress(lambda _: None)
        settings = load.settings
        active, sizes = settings.max_active, context_sizes(settings)
        progress.enter(LoadPhase.WEIGHTS)
        adapters = [adapter.path for adapter in load.adapters]
        self._llama = Llama(load.model_path, sizes, adapters, advanced=progress.advance)
        self._max_active = active
        self._builder = RequestBuilder(self._llama)
        self._admission = Admission(max_active=active, cells=self._llama.context_tokens)
        self._request_ids = list(range(active))
        self._branch_ids = list(range(active, active + _BRANCHES))
        self._idle_id = sizes.sequences - 1
        self._idle_token = max(self._llama.eos, 0)
        self._prefixes = TaskPrefixes(
            self._llama,
            range(active + _BRANCHES, self._idle_id),
            max_cells=int(self._llama.context_tokens * _PREFIX_SHARE),
            store=_prefix_store(load, self._llama),
        )
        self._requests: dict[int, ActiveRequest] = {}
        self._is_short_of_cells = False
        self._linger = Linger(_LINGER_SHARE, _LINGER_WAY_S)
        self._totals = Totals()
        # The request that the running step is for alone: `interrupt` reads it from another thread.
        self._stepping: int | None = None
        # A first step touches every weight, so that no request waits for the disk.
        self._llama.decode([Piece(self._idle_id, 0, [self._idle_token], [0])], threads=calibration.cpus())
        self._llama.forget(self._idle_id)
        progress.enter(LoadPhase.MEASURE)
        began = monotonic()
        policy = (
            calibration.step_policy(load, self._llama, self._request_ids, self._idle_id)
            if is_measured
            else calibration.unmeasured_policy(settings, self._llama)
        )
        self._measure_s = monotonic() - began
        self._next_step = NextStep(
            policy,
            self._prefixes,
            max_active=active,
            most_rows=self._llama.batch_tokens,
            most_outputs=self._llama.outputs,
        )
        progress.enter(LoadPhase.PREFIXES)
        self.set_tasks(load.tasks)
        while self.has_work:
            self.step()

    def ready(self, load_s: float) -> Ready:
        policy = self._policy
        return Ready(
            pid=os.getpid(),
            context_tokens=self._llama.context_tokens,
            max_active=self._max_active,
            threads=policy.threads(1),
            prefill_threads=policy.threads(policy.batch_tokens),
            batch_tokens=policy.batch_tokens,
            vocabulary=self._llama.vocabulary_size,
            cpu_variant=self._llama.cpu_variant,
            repacked_mib=self._llama.log.repacked_mib,
            prefill_tok_s=self._rows_per_s(policy.prompt_batch_tokens),
            decode_tok_s=self._rows_per_s(self._max_active),
            load_s=load_s,
            measure_s=self._measure_s,
        )

    def _rows_per_s(self, rows: int) -> float | None:
        seconds = self._policy.seconds(self._policy.padded(rows))
        return None if seconds is None else round(rows / seconds, 1)

    @property
    def _policy(self) -> StepPolicy:
        return self._next_step.policy

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._prefixes.is_busy)

    @property
    def linger_s(self) -> float:
        seconds = self._linger.seconds(monotonic())
        return 0.0 if seconds and self._next_step.is_full(self._requests.values()) else seconds

    def progress(self) -> Progress:
        return self._totals.progress(self._admission.active)

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        if any(task.has_schema for task in tasks):
            _ = self._llama.json_tokenizer
        self._prefixes.want({task.task: self._builder.prefix(task) for task in tasks})
        self._prefixes.start_missing(self._free_cells)

    def set_limits(self, limits: SetLimits) -> None:
        self._policy.limit(
            threads=limits.threads, prefill_threads=limits.prefill_threads, batch_tokens=limits.batch_tokens
        )
        most = self._max_active if limits.max_active is None else limits.max_active
        self._admission.max_active = min(self._max_active, most)

    def add(self, run: Run) -> Event | None:
        if run.id in self._requests:
            raise ValueError(f"request id {run.id} is in use")
        try:
            request = self._builder.build(run)
        except ChatError as error:
            message = f"input.messages: the model's chat template does not take them: {error}"
            return Failed(id=run.id, code=Code.BAD_FIELD, message=message)
        except Exception as error:
            log.exception("request %d cannot be prepared", run.id)
            return Failed(id=run.id, code=Code.INTERNAL, message=str(error))
        prompt, extra = len(request.prompt), request.extra_cells(_BRANCHES)
        if prompt + extra > self._llama.context_tokens:
            request.answer.close()
            return too_long(run, prompt, extra, self._llama.context_tokens)
        self._requests[run.id] = request
        self._admission.offer(run.id)
        self._linger.came()
        self._start_waiting()
        return None

    def cancel(self, request_id: int) -> Event | None:
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._remove(request)
        return Cancelled(id=request_id)

    def interrupt(self, request_id: int) -> None:
        """For the thread that reads commands: ends the running step if it is for this request alone.

        If it comes too late, it ends the next step, which is then made again.
        """
        if self._stepping == request_id:
            self._llama.abort()

    def step(self) -> list[Event]:
        self._start_waiting()
        if not self._is_short_of_cells:
            self._prefixes.start_missing(self._free_cells)
        self._start_branches()
        parts = self._next_step.choose(self._requests.values())
        if not parts:
            return []
        began = monotonic()
        requests = list(dict.fromkeys(part.owner for part in parts if part.owner is not None))
        for request in requests:
            request.started_at = began if request.started_at is None else request.started_at
            request.batch = max(request.batch, len(requests))
        is_alone = len(requests) == 1 and all(part.owner for part in parts)
        self._stepping = requests[0].run.id if is_alone else None
        try:
            rows = self._decode(parts)
        except DecodeAbortedError:
            return []
        except (DecodeError, ValueError):
            log.exception("a step failed; the context is rebuilt")
            return self._recover(requests)
        finally:
            self._stepping = None
        decoded_at = monotonic()
        has_prefill = any(part.owner is None or part.owner.first_token_at is None for part in parts)
        tokens = sum(part.count for part in parts)
        events: list[Event] = []
        for part, logits_rows in zip(parts, rows, strict=True):
            if part.owner is not None:
                part.owner.share_s += (decoded_at - began) * part.count / tokens
            events += self._advance(part, logits_rows, decoded_at)
        self._totals.count_step(
            rows=len(requests), tokens=tokens, elapsed_s=monotonic() - began, has_prefill=has_prefill
        )
        if ended := sum(isinstance(event, (Finished, Failed)) for event in events):
            running = self._admission.active + ended
            self._linger.answered(ended, of=running, step_s=decoded_at - began, now=monotonic())
        return events

    @property
    def _free_cells(self) -> int:
        return self._admission.free_cells(self._prefixes.cells)

    def _start_waiting(self) -> None:
        """Starts the waiting requests for which there is a place and room."""
        self._is_short_of_cells = False
        for key in self._admission.candidates():
            request = self._requests[key]
            found = self._prefixes.find(request.run.task, request.prompt, self._free_cells)
            if found is not None and self._start(request, *found):
                continue
            if self._admission.active:
                self._is_short_of_cells |= found is not None
                continue
            if found is not None:
                self._prefixes.drop_idle()
            if found is None or not self._start(request, None, 0):
                # No running request will end and make room: no other prefix may take what this one waits for.
                self._is_short_of_cells = True
                return

    def _start(self, request: ActiveRequest, prefix: Prefix | None, shared: int) -> bool:
        """Whether its worst case of cells was free."""
        cells = len(request.prompt) - shared + request.extra_cells(_BRANCHES)
        if not self._admission.start(Reservation(request.run.id, cells), self._prefixes.cells):
            return False
        sequence = request.start(self._request_ids.pop(), shared)
        if prefix is not None:
            self._prefixes.share(prefix, sequence.seq_id, shared)
            request.prefix = prefix
        self._totals.count_start(shared)
        return True

    def _start_branches(self) -> None:
        """Gives free sequences to the label branches of requests whose prompt is decoded."""
        for request in self._requests.values():
            if request.sequence is None or request.first_token_at is None:
                continue
            while request.branches_left and self._branch_ids:
                branch = request.start_branch(self._branch_ids.pop())
                self._llama.share(request.sequence.seq_id, branch.seq_id, branch.done)

    def _decode(self, parts: list[StepPart]) -> list[list[int]]:
        """One pass; the rows of each part's logits. Adds idle rows where a wider kernel is faster.

        Raises as Llama.decode.
        """
        pieces = [part.sequence.piece(part.count) for part in parts]
        tokens = sum(part.count for part in parts)
        padding = self._policy.padded(tokens) - tokens
        idle: list[Piece] = []
        if 0 < padding <= self._free_cells:
            tokens += padding
            outputs = range(padding) if tokens <= WRITING_ROWS else ()
            idle = [Piece(self._idle_id, 0, [self._idle_token] * padding, outputs)]
        try:
            starts = self._llama.decode([*pieces, *idle], threads=self._policy.threads(tokens))
        finally:
            self._llama.forget(self._idle_id)
        found = zip(pieces, starts, strict=False)
        return [[start + offset for offset in piece.outputs] for piece, start in found]

    def _advance(self, part: StepPart, rows: list[int], now: float) -> list[Event]:
        """What follows for a part's owner from its decoded tokens and the rows of their logits."""
        request, sequence = part.owner, part.sequence
        before = sequence.done
        sequence.done += part.count
        if request is None:
            self._prefixes.was_decoded(sequence)
            return []
        if request.first_token_at is None:
            # The decided beginning of the answer is not prompt.
            self._totals.prompt_tokens += max(min(sequence.done, len(request.prompt)) - before, 0)
        # A branch of the same request may have ended it in this step.
        if request.run.id not in self._requests:
            return []
        try:
            if rows and sequence.branch is None and request.first_token_at is None:
                request.first_token_at = now
            if isinstance(request.answer, LabelAnswer):
                return self._read_labels(request, request.answer, sequence, rows)
            return self._read_text(request, request.answer, sequence, rows)
        except InvalidOutputError as error:
            code, message = Code.NO_VALID_OUTPUT, str(error)
        except Exception as error:
            # A fault of one request must not reach the others.
            log.exception("request %d failed", request.run.id)
            code, message = Code.INTERNAL, str(error) or type(error).__name__
        self._remove(request)
        return [Failed(id=request.run.id, code=code, message=message)]

    def _read_labels(
        self, request: ActiveRequest, answer: LabelAnswer, sequence: CacheSequence, rows: list[int]
    ) -> list[Event]:
        if sequence.branch is not None:
            decoded = sequence.done - len(request.prompt)
            lengths = [index + 1 for index in sequence.branch.outputs if index < decoded]
            for length, row in zip(lengths[len(lengths) - len(rows) :], rows, strict=True):
                answer.add(sequence.branch.tokens[:length], self._llama.logits(row))
            if not sequence.waiting:
                request.branches.remove(sequence)
                self._llama.forget(sequence.seq_id)
                self._branch_ids.append(sequence.seq_id)
        elif rows and answer.tree.needs_prompt_logits:
            answer.add((), self._llama.logits(rows[0]))
        if request.first_token_at is None or request.branches or request.branches_left:
            return []
        return [self._finish(request, Finish.LABELS, scores=answer.scores())]

    def _read_text(
        self, request: ActiveRequest, answer: JsonAnswer | TextAnswer, sequence: CacheSequence, rows: list[int]
    ) -> list[Event]:
        before = answer.completion_tokens
        for row in rows:
            following = answer.next_tokens(row)
            if answer.finish is not None or not sequence.decide(following):
                break
        self._llama.cut(sequence.seq_id, sequence.done)
        self._totals.completion_tokens += answer.completion_tokens - before
        if answer.finish is not None:
            answer.check()
        events: list[Event] = []
        if request.run.stream and (delta := answer.take_delta()):
            events.append(Partial(id=request.run.id, delta=delta))
        if answer.finish is not None:
            events.append(self._finish(request, answer.finish, text=answer))
        return events

    def _finish(
        self,
        request: ActiveRequest,
        finish: Finish,
        *,
        text: JsonAnswer | TextAnswer | None = None,
        scores: dict[str, float] | None = None,
    ) -> Finished:
        started, first = request.started_at, request.first_token_at
        assert started is not None
        assert first is not None
        self._remove(request)
        return Finished(
            id=request.run.id,
            finish=finish,
            text=None if text is None else text.text,
            scores=scores,
            reasoning=None if text is None else text.reasoning,
            prompt_tokens=len(request.prompt),
            cached_tokens=request.cached_tokens,
            completion_tokens=0 if text is None else text.completion_tokens,
            started_at=started,
            prefill_ms=(first - started) * 1000,
            decode_ms=(monotonic() - first) * 1000,
            share_s=request.share_s,
            batch=request.batch,
            prompt_crc32=self._builder.prompt_crc32(request.prompt),
        )

    def _remove(self, request: ActiveRequest) -> None:
        del self._requests[request.run.id]
        self._release(request)
        self._admission.leave(request.run.id)
        request.answer.close()

    def _release(self, request: ActiveRequest) -> None:
        """Gives back what the request holds of the context."""
        for branch in request.branches:
            self._llama.forget(branch.seq_id)
            self._branch_ids.append(branch.seq_id)
        request.branches.clear()
        if request.sequence is not None:
            self._llama.forget(request.sequence.seq_id)
            self._request_ids.append(request.sequence.seq_id)
            request.sequence = None
        if request.prefix is not None:
            self._prefixes.release(request.prefix)
            request.prefix = None

    def _recover(self, failed: list[ActiveRequest]) -> list[Event]:
        """Rebuilds the context after a failed step: its requests fail, all others start again. Raises LoadError.

        Text that was being written fails, too: half of an answer and its sampler cannot start again.
        """
        failed = failed + [
            request
            for request in self._requests.values()
            if request not in failed and request.first_token_at is not None and isinstance(request.answer, TextAnswer)
        ]
        for request in failed:
            self._remove(request)
        for request in reversed(self._requests.values()):
            if request.sequence is not None:
                self._release(request)
                self._admission.put_back(request.run.id)
                request.restart()
        self._llama.reset()
        self._prefixes.reset()
        message = "the model failed in this step"
        return [Failed(id=request.run.id, code=Code.INTERNAL, message=message) for request in failed]

    def close(self) -> None:
        for request in list(self._requests.values()):
            self._remove(request)
        self._llama.close()


def _prefix_store(load: Load, llama: Llama) -> PrefixStore | None:
    if not load.state_dir or not load.model_sha256:
        return None
    return PrefixStore(Path(load.state_dir) / "prefixes", f"{load.weights_sha256}, {llama.build}")
