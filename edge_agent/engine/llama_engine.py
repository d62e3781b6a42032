"""START HERE for the engine: one step after another, each a single llama_decode over all requests that have something.

Sequence ids, from 0: one per running request, one per label branch, one per pinned prefix, and one to warm up with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from time import monotonic

from edge_agent.engine.answers import InvalidOutputError, LabelAnswer, TextAnswer
from edge_agent.engine.chat import ChatError
from edge_agent.engine.engine import EngineFacts, Totals
from edge_agent.engine.intake import Intake
from edge_agent.engine.llama import ContextSizes, DecodeError, Llama, Piece
from edge_agent.engine.planned_answer import PlannedAnswer
from edge_agent.engine.prefix_cache import PrefixCache
from edge_agent.engine.protocol import (
    Cancelled,
    Event,
    Failed,
    FailureCode,
    Finish,
    Finished,
    LabelsPlan,
    Load,
    Partial,
    Progress,
    RefusalCode,
    Refused,
    Run,
    TaskPrefix,
)
from edge_agent.engine.request import Request, Stream
from edge_agent.engine.scheduler import Admission, Reservation, next_batch

_logger = logging.getLogger(__name__)

_BATCH_TOKENS = 256
_BRANCHES = 8
# Each costs a row of logits (0.6 MB with Qwen's vocabulary), for llama.cpp keeps a row per sequence id.
_PREFIXES = 16
# Pinned prefixes take at most this share of the cells.
_PINNED_SHARE = 0.5
# From so many rows on a batch is bound by arithmetic rather than by memory.
_WIDE_BATCH = 8

_Row = tuple[Request | None, Stream]


class LlamaEngine:
    """An Engine over a GGUF model. Raises ModelError if it cannot be opened; is warm when constructed."""

    def __init__(self, load: Load) -> None:
        settings = load.settings
        cpus = len(os.sched_getaffinity(0))
        active = settings.max_active
        sequences = active + _BRANCHES + _PREFIXES + 1
        self._llama = Llama(
            load.model_path,
            ContextSizes(
                context_tokens=settings.context_tokens,
                batch_tokens=settings.batch_tokens or _BATCH_TOKENS,
                sequences=sequences,
                outputs=sequences,
            ),
        )
        # Decoding is bound by memory, which two cores of a Pi 5 saturate; prefill is bound by arithmetic.
        self._threads = settings.threads or (cpus if cpus <= 2 else max(2, cpus // 2))
        self._prefill_threads = settings.prefill_threads or cpus
        self._max_active = active
        self._intake = Intake(self._llama)
        self._admission = Admission(max_active=active, cells=self._llama.context_tokens)
        self._request_ids = list(range(active))
        self._branch_ids = list(range(active, active + _BRANCHES))
        self._prefixes = PrefixCache(
            range(active + _BRANCHES, sequences - 1), max_cells=int(self._llama.context_tokens * _PINNED_SHARE)
        )
        self._requests: dict[int, Request] = {}
        self._prefix_streams: list[Stream] = []
        self._is_head_blocked = False
        self._totals = Totals()
        self._warm_up(sequences - 1)
        self.set_tasks(load.tasks)
        while self.has_work:
            self.step()

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            context_tokens=self._llama.context_tokens,
            max_active=self._max_active,
            threads=self._threads,
            prefill_threads=self._prefill_threads,
            batch_tokens=self._llama.batch_tokens,
            vocabulary=self._llama.vocabulary_size,
            cpu_variant=self._llama.cpu_variant,
            repacked_mb=self._llama.log.repacked_mb,
        )

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._prefix_streams)

    def progress(self) -> Progress:
        return self._totals.progress(self._admission.active)

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        left_out = self._prefixes.want([self._intake.prefix(task) for task in tasks])
        if left_out:
            _logger.info("%d of %d task prefixes are not kept: no room in the context", left_out, len(tasks))
        self._tend_prefixes()

    def add(self, run: Run) -> Event | None:
        if run.id in self._requests:
            raise ValueError(f"request id {run.id} is in use")
        try:
            request = self._intake.request(run)
        except ChatError as error:
            message = f"input.messages: the model's chat template does not take them: {error}"
            return Refused(id=run.id, code=RefusalCode.BAD_FIELD, message=message)
        except Exception as error:
            _logger.exception("request %d cannot be prepared", run.id)
            return Failed(id=run.id, code=FailureCode.INTERNAL, message=str(error))
        prompt, extra = len(request.prompt), request.extra_cells(_BRANCHES)
        if prompt + extra > self._llama.context_tokens:
            request.answer.close()
            what = "label tokens" if isinstance(run.plan, LabelsPlan) else "max_tokens"
            message = (
                f"prompt of {prompt} tokens and {what} {extra} are {prompt + extra} tokens; "
                f"the context has {self._llama.context_tokens}"
            )
            return Refused(id=run.id, code=RefusalCode.TOO_LONG, message=message)
        self._requests[run.id] = request
        self._admission.offer(run.id)
        return None

    def cancel(self, request_id: int) -> Event | None:
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._remove(request)
        return Cancelled(id=request_id)

    def step(self) -> list[Event]:
        self._start_waiting()
        self._tend_prefixes()
        self._start_branches()
        rows = list(self._ordered_rows())
        wants = (stream.want(key) for key, (_, stream) in enumerate(rows))
        batch = next_batch(wants, tokens=self._llama.batch_tokens, outputs=self._llama.outputs)
        if not batch:
            return []
        events = self._run_batch([rows[take.key] for take in batch], [take.count for take in batch])
        self._tend_prefixes()
        return events

    def _start_waiting(self) -> None:
        self._is_head_blocked = False
        while (key := self._admission.head()) is not None:
            request = self._requests[key]
            if self._start(request):
                continue
            if not self._admission.active:
                # Pinned prefixes must not keep out what would fit without them; they come back later.
                for seq_id in self._prefixes.drop_idle():
                    self._llama.forget(seq_id)
                if self._start(request):
                    continue
            self._is_head_blocked = True
            return

    def _start(self, request: Request) -> bool:
        prefix, shared = self._prefixes.match(request.prompt)
        cells = len(request.prompt) - shared + request.extra_cells(_BRANCHES)
        if not self._admission.start(Reservation(request.run.id, cells), self._prefixes.cells):
            return False
        tokens = [*request.prompt, *request.opening]
        stream = Stream(self._request_ids.pop(), tokens, (len(tokens) - 1,), shared)
        if prefix is not None:
            prefix.users += 1
            self._llama.share(prefix.seq_id, stream.seq_id, shared)
        request.stream, request.prefix, request.cached_tokens = stream, prefix, shared
        self._totals.prompt_tokens += shared
        self._totals.cached_tokens += shared
        return True

    def _tend_prefixes(self) -> None:
        """Drop the prefixes that no task has any more, begin those that are missing and fit."""
        for seq_id in self._prefixes.drop_unwanted():
            self._llama.forget(seq_id)
        if self._is_head_blocked:
            return
        while (prefix := self._prefixes.next_missing(self._admission.free_cells(self._prefixes.cells))) is not None:
            stream = Stream(prefix.seq_id, list(prefix.tokens), prefix=prefix)
            parent, shared = self._prefixes.parent(prefix)
            if parent is not None:
                self._llama.share(parent.seq_id, stream.seq_id, shared)
                stream.done = shared
            self._prefix_streams.append(stream)

    def _start_branches(self) -> None:
        for request in self._requests.values():
            if request.stream is None or request.first_token_at is None:
                continue
            while request.branches_left and self._branch_ids:
                branch = request.branches_left.pop()
                start = len(request.prompt)
                outputs = tuple(start + index for index in branch.outputs)
                stream = Stream(self._branch_ids.pop(), [*request.prompt, *branch.tokens], outputs, start, branch)
                self._llama.share(request.stream.seq_id, stream.seq_id, start)
                request.branches.append(stream)

    def _ordered_rows(self) -> Iterator[_Row]:
        """Those that write, then label branches, then prompts by arrival, then prefixes."""
        active = [(request, request.stream) for request in self._requests.values() if request.stream is not None]
        for request, stream in active:
            if request.first_token_at is not None and not stream.is_done:
                yield request, stream
        for request, _ in active:
            for branch in request.branches:
                yield request, branch
        for request, stream in active:
            if request.first_token_at is None:
                yield request, stream
        for stream in self._prefix_streams:
            yield None, stream

    def _run_batch(self, rows: list[_Row], counts: list[int]) -> list[Event]:
        began = monotonic()
        requests = [owner for owner in dict.fromkeys(owner for owner, _ in rows) if owner is not None]
        for request in requests:
            request.started_at = began if request.started_at is None else request.started_at
            request.batch = max(request.batch, len(requests))
        pieces = [stream.piece(count) for (_, stream), count in zip(rows, counts, strict=True)]
        try:
            starts = self._llama.decode(
                pieces, threads=self._prefill_threads if sum(counts) >= _WIDE_BATCH else self._threads
            )
        except (DecodeError, ValueError):
            _logger.exception("a step failed; the context is rebuilt")
            return self._recover(requests)
        now = monotonic()
        self._share_out(now - began, rows, counts)
        has_prefill = any(owner is None or owner.first_token_at is None for owner, _ in rows)
        events: list[Event] = []
        for (owner, stream), piece, start in zip(rows, pieces, starts, strict=True):
            before = stream.done
            stream.done += len(piece.tokens)
            if owner is None:
                self._end_prefix(stream)
                continue
            if owner.first_token_at is None:
                # What the answer begins with is no prompt.
                self._totals.prompt_tokens += max(min(stream.done, len(owner.prompt)) - before, 0)
            # A branch of a request may have ended it a moment ago.
            if owner.run.id in self._requests:
                events += self._read(owner, stream, [start + offset for offset in piece.outputs], now)
        self._totals.count_step(rows=len(requests), elapsed_s=monotonic() - began, has_prefill=has_prefill)
        return events

    def _share_out(self, elapsed_s: float, rows: list[_Row], counts: list[int]) -> None:
        per_row_s = elapsed_s / sum(counts)
        for (owner, _), count in zip(rows, counts, strict=True):
            if owner is not None:
                owner.share_s += count * per_row_s

    def _end_prefix(self, stream: Stream) -> None:
        if stream.is_done and stream.prefix is not None:
            self._prefix_streams.remove(stream)
            self._prefixes.ready(stream.prefix)

    def _read(self, request: Request, stream: Stream, rows: list[int], now: float) -> list[Event]:
        """What a request makes of its logits: a mistake of one request must not reach the others."""
        try:
            if rows and stream.branch is None and request.first_token_at is None:
                request.first_token_at = now
            if isinstance(request.answer, LabelAnswer):
                return self._read_labels(request, request.answer, stream, rows)
            return self._read_text(request, request.answer, stream, rows) if rows else []
        except InvalidOutputError as error:
            code, message = FailureCode.NO_VALID_OUTPUT, str(error)
        except Exception as error:
            _logger.exception("request %d failed", request.run.id)
            code, message = FailureCode.INTERNAL, str(error)
        self._remove(request)
        return [Failed(id=request.run.id, code=code, message=message)]

    def _read_labels(self, request: Request, answer: LabelAnswer, stream: Stream, rows: list[int]) -> list[Event]:
        if stream.branch is not None:
            decoded = stream.done - len(request.prompt)
            lengths = [index + 1 for index in stream.branch.outputs if index < decoded]
            for length, row in zip(lengths[len(lengths) - len(rows) :], rows, strict=True):
                answer.take(stream.branch.tokens[:length], self._llama.logits(row))
            if stream.is_done:
                request.branches.remove(stream)
                self._llama.forget(stream.seq_id)
                self._branch_ids.append(stream.seq_id)
        elif rows and answer.tree.needs_prompt_logits:
            answer.take((), self._llama.logits(rows[0]))
        if request.first_token_at is None or request.branches or request.branches_left:
            return []
        return [self._finish(request, Finish.LABELS, scores=answer.scores())]

    def _read_text(
        self, request: Request, answer: PlannedAnswer | TextAnswer, stream: Stream, rows: list[int]
    ) -> list[Event]:
        before = answer.completion_tokens
        stream.tokens += answer.next_tokens(rows[0])
        stream.outputs = (len(stream.tokens) - 1,)
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
        request: Request,
        finish: Finish,
        *,
        text: PlannedAnswer | TextAnswer | None = None,
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
        )

    def _remove(self, request: Request) -> None:
        del self._requests[request.run.id]
        self._release(request)
        self._admission.leave(request.run.id)
        request.answer.close()

    def _release(self, request: Request) -> None:
        """Give back what the request holds of the context."""
        for branch in request.branches:
            self._llama.forget(branch.seq_id)
            self._branch_ids.append(branch.seq_id)
        request.branches.clear()
        if request.stream is not None:
            self._llama.forget(request.stream.seq_id)
            self._request_ids.append(request.stream.seq_id)
            request.stream = None
        if request.prefix is not None:
            request.prefix.users -= 1
            request.prefix = None

    def _recover(self, failed: list[Request]) -> list[Event]:
        """After a failed step: its requests end, all others begin anew in an empty context. Raises ModelError."""
        for request in failed:
            self._remove(request)
        for stream in self._prefix_streams:
            if stream.prefix is not None:
                self._prefixes.give_up(stream.prefix)
        self._prefix_streams.clear()
        for request in reversed(self._requests.values()):
            if request.stream is not None:
                # Whoever writes has a row in every batch: these have not written anything yet.
                self._release(request)
                self._admission.put_back(request.run.id)
                request.begin_anew()
        self._llama.reset()
        self._prefixes.drop_all()
        message = "the model failed in this step"
        return [Failed(id=request.run.id, code=FailureCode.INTERNAL, message=message) for request in failed]

    def _warm_up(self, seq_id: int) -> None:
        """One step that touches every weight, so that the first request does not wait for the disk."""
        self._llama.decode([Piece(seq_id, 0, [max(self._llama.eos, 0)], [0])], threads=self._threads)
        self._llama.forget(seq_id)

    def close(self) -> None:
        for request in list(self._requests.values()):
            self._remove(request)
        self._intake.close()
        self._llama.close()
