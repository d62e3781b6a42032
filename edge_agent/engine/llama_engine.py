"""START HERE for the engine: one step after another, each a single llama_decode over all requests that have something.

Sequence ids, from 0: one per running request, one per label branch, one per pinned prefix, and one to warm up with.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import jsonschema

from edge_agent.engine.answer_plan import Branch, LabelTree
from edge_agent.engine.answers import InvalidOutputError, LabelAnswer, TextAnswer
from edge_agent.engine.chat import THOUGHT_END, Chat, ChatError
from edge_agent.engine.engine import EngineFacts
from edge_agent.engine.llama import ContextSizes, DecodeError, Grammar, Llama, Piece
from edge_agent.engine.prefix_cache import Prefix, PrefixCache
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
    SchemaPlan,
    TaskPrefix,
    TextPlan,
)
from edge_agent.engine.sampling import TokenPicker
from edge_agent.engine.scheduler import Admission, Reservation, Want, next_batch
from edge_agent.engine.schema_grammar import to_gbnf, validator
from edge_agent.engine.text_stream import TextStream

_logger = logging.getLogger(__name__)

_BATCH_TOKENS = 256
_BRANCHES = 8
# Each costs a row of logits (0.6 MB with Qwen's vocabulary), for llama.cpp keeps a row per sequence id.
_PREFIXES = 16
# Pinned prefixes take at most this share of the cells.
_PINNED_SHARE = 0.5
# From so many rows on a batch is bound by arithmetic, not by memory (research of llama.cpp's repacked kernels).
_WIDE_BATCH = 8
_MAX_GRAMMARS = 64


@dataclass(slots=True, eq=False)
class _Stream:
    """Tokens of one sequence: `done` of them are in the cache; logits are wanted after those at `outputs`."""

    seq_id: int
    tokens: list[int]
    outputs: tuple[int, ...] = ()
    done: int = 0
    branch: Branch | None = None
    prefix: Prefix | None = None

    def want(self, key: int) -> Want:
        ahead = tuple(index - self.done for index in self.outputs if index >= self.done)
        return Want(key, len(self.tokens) - self.done, ahead)

    def piece(self, count: int) -> Piece:
        end = self.done + count
        inside = [index - self.done for index in self.outputs if self.done <= index < end]
        return Piece(self.seq_id, self.done, self.tokens[self.done : end], inside)


@dataclass(slots=True, eq=False)
class _Request:
    run: Run
    prompt: list[int]
    answer: LabelAnswer | TextAnswer
    stream: _Stream | None = None
    prefix: Prefix | None = None
    cached_tokens: int = 0
    branches_left: list[Branch] = field(default_factory=list)
    branches: list[_Stream] = field(default_factory=list)
    started_at: float | None = None
    first_token_at: float | None = None
    batch: int = 0

    @property
    def extra_cells(self) -> int:
        """Cells needed at worst beyond the prompt's."""
        if isinstance(self.answer, TextAnswer):
            return self.run.max_tokens
        lengths = sorted((len(branch.tokens) for branch in self.answer.tree.branches), reverse=True)
        return sum(lengths[:_BRANCHES])


@dataclass(slots=True)
class _Totals:
    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class LlamaEngine:
    """An Engine over a GGUF model. Raises ModelError if it cannot be opened; is warm when constructed."""

    def __init__(self, load: Load) -> None:
        settings = load.settings
        cpus = len(os.sched_getaffinity(0))
        active = settings.max_active
        self._llama = Llama(
            load.model_path,
            ContextSizes(
                context_tokens=settings.context_tokens,
                batch_tokens=settings.batch_tokens or _BATCH_TOKENS,
                sequences=active + _BRANCHES + _PREFIXES + 1,
                outputs=active + _BRANCHES + _PREFIXES + 1,
            ),
        )
        # Decoding is bound by memory, which two cores of a Pi 5 saturate; prefill is bound by arithmetic.
        self._threads = settings.threads or (cpus if cpus <= 2 else max(2, cpus // 2))
        self._prefill_threads = settings.prefill_threads or cpus
        self._max_active = active
        self._chat = Chat(self._llama)
        self._close_thought = self._llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self._admission = Admission(max_active=active, cells=self._llama.context_tokens)
        self._request_ids = list(range(active))
        self._branch_ids = list(range(active, active + _BRANCHES))
        first_prefix = active + _BRANCHES
        self._prefixes = PrefixCache(
            range(first_prefix, first_prefix + _PREFIXES), max_cells=int(self._llama.context_tokens * _PINNED_SHARE)
        )
        self._requests: dict[int, _Request] = {}
        self._prefix_streams: list[_Stream] = []
        self._grammars: dict[str, tuple[Grammar, jsonschema.Draft202012Validator]] = {}
        self._trees: dict[tuple[str, ...], LabelTree] = {}
        self._totals = _Totals()
        self._warm_up(first_prefix + _PREFIXES)
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

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        left_out = self._prefixes.want([self._chat.prefix(task) for task in tasks])
        if left_out:
            _logger.info("%d of %d task prefixes are not kept: no room in the context", left_out, len(tasks))
        self._start_prefixes()

    def add(self, run: Run) -> Event | None:
        if run.id in self._requests:
            raise ValueError(f"request id {run.id} is in use")
        try:
            request = self._prepare(run)
        except ChatError as error:
            message = f"input.messages: the model's chat template does not take them: {error}"
            return Refused(id=run.id, code=RefusalCode.BAD_FIELD, message=message)
        except Exception as error:
            _logger.exception("request %d cannot be prepared", run.id)
            return Failed(id=run.id, code=FailureCode.INTERNAL, message=str(error))
        needed, context = len(request.prompt) + request.extra_cells, self._llama.context_tokens
        if needed > context:
            request.answer.close()
            what = "label tokens" if isinstance(run.plan, LabelsPlan) else "max_tokens"
            return Refused(
                id=run.id,
                code=RefusalCode.TOO_LONG,
                message=f"prompt of {len(request.prompt)} tokens and {what} {request.extra_cells} "
                f"are {needed} tokens; the context has {context}",
            )
        self._requests[run.id] = request
        self._admission.offer(run.id)
        return None

    def _prepare(self, run: Run) -> _Request:
        thinks = isinstance(run.plan, TextPlan) and run.max_reasoning_tokens != 0
        prompt, is_open = self._chat.prompt(run.messages, thinks=thinks)
        if isinstance(run.plan, LabelsPlan):
            tree = self._tree(run.plan.labels)
            return _Request(run, prompt, LabelAnswer(tree), branches_left=list(tree.branches))
        grammar = schema = None
        stop: tuple[str, ...] = ()
        if isinstance(run.plan, SchemaPlan):
            original, schema = self._grammar(run.plan)
            grammar = original.clone()
        else:
            stop = run.plan.stop
        text = TextStream(stop=stop, is_reasoning=self._chat.is_reasoning and grammar is None, is_open=is_open)
        answer = TextAnswer(
            self._llama,
            TokenPicker(self._llama, run.sampling, grammar),
            text,
            max_tokens=run.max_tokens,
            max_reasoning_tokens=run.max_reasoning_tokens,
            close_thought=self._close_thought,
            schema=schema,
        )
        return _Request(run, prompt, answer)

    def _tree(self, labels: tuple[str, ...]) -> LabelTree:
        tree = self._trees.get(labels)
        if tree is None:
            if len(self._trees) >= _MAX_GRAMMARS:
                del self._trees[next(iter(self._trees))]
            llama = self._llama
            tree = LabelTree(labels, lambda label: llama.tokenize(label, parse_special=False), llama.end_of_turn)
            self._trees[labels] = tree
        return tree

    def _grammar(self, plan: SchemaPlan) -> tuple[Grammar, jsonschema.Draft202012Validator]:
        # Not sorted: the order of keys is the order in which they are written.
        key = json.dumps(plan.schema)
        found = self._grammars.get(key)
        if found is None:
            if len(self._grammars) >= _MAX_GRAMMARS:
                self._grammars.pop(next(iter(self._grammars)))[0].close()
            found = self._grammars[key] = (self._llama.grammar(to_gbnf(plan.schema)), validator(plan.schema))
        return found

    def cancel(self, request_id: int) -> Event | None:
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._remove(request)
        return Cancelled(id=request_id)

    def _remove(self, request: _Request) -> None:
        del self._requests[request.run.id]
        self._release(request)
        self._admission.leave(request.run.id)
        request.answer.close()

    def _release(self, request: _Request) -> None:
        """Give back what the request holds of the context."""
        for stream in request.branches:
            self._llama.forget(stream.seq_id)
            self._branch_ids.append(stream.seq_id)
        request.branches.clear()
        if request.stream is not None:
            self._llama.forget(request.stream.seq_id)
            self._request_ids.append(request.stream.seq_id)
            request.stream = None
        if request.prefix is not None:
            request.prefix.users -= 1
            request.prefix = None

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._prefix_streams)

    def step(self) -> list[Event]:
        for seq_id in self._prefixes.drop_unwanted():
            self._llama.forget(seq_id)
        self._start_waiting()
        self._start_prefixes()
        self._start_branches()
        rows = list(self._ordered_streams())
        wants = (stream.want(key) for key, (_, stream) in enumerate(rows))
        batch = next_batch(wants, tokens=self._llama.batch_tokens, outputs=self._llama.outputs)
        if not batch:
            return []
        taken = [(*rows[take.key], take.count) for take in batch]
        return self._run_batch(taken)

    def _start_waiting(self) -> None:
        while (key := self._admission.head()) is not None:
            request = self._requests[key]
            if not self._start(request):
                # Pinned prefixes must not keep out what would fit without them.
                if self._admission.active:
                    return
                for seq_id in self._prefixes.drop_idle():
                    self._llama.forget(seq_id)
                if not self._start(request):
                    return

    def _start(self, request: _Request) -> bool:
        prefix, shared = self._prefixes.match(request.prompt)
        cells = len(request.prompt) - shared + request.extra_cells
        if not self._admission.start(Reservation(request.run.id, cells), self._prefixes.cells):
            return False
        stream = _Stream(self._request_ids.pop(), request.prompt, (len(request.prompt) - 1,), shared)
        if prefix is not None:
            prefix.users += 1
            self._llama.share(prefix.seq_id, stream.seq_id, shared)
        request.stream, request.prefix, request.cached_tokens = stream, prefix, shared
        self._totals.prompt_tokens += shared
        self._totals.cached_tokens += shared
        return True

    def _start_prefixes(self) -> None:
        if self._admission.waiting:
            return
        while (prefix := self._prefixes.next_missing(self._admission.free_cells(self._prefixes.cells))) is not None:
            stream = _Stream(prefix.seq_id, list(prefix.tokens), prefix=prefix)
            parent, shared = self._prefixes.parent(prefix)
            if parent is not None:
                self._llama.share(parent.seq_id, stream.seq_id, shared)
                stream.done = shared
            self._prefix_streams.append(stream)

    def _start_branches(self) -> None:
        for request in self._requests.values():
            stream = request.stream
            if stream is None or request.first_token_at is None:
                continue
            while request.branches_left and self._branch_ids:
                branch = request.branches_left.pop()
                start = len(request.prompt)
                outputs = tuple(start + index for index in branch.outputs)
                tokens = [*request.prompt, *branch.tokens]
                branch_stream = _Stream(self._branch_ids.pop(), tokens, outputs, start, branch)
                self._llama.share(stream.seq_id, branch_stream.seq_id, start)
                request.branches.append(branch_stream)

    def _ordered_streams(self) -> Iterator[tuple[_Request | None, _Stream]]:
        active = [request for request in self._requests.values() if request.stream is not None]
        writing = [request for request in active if request.first_token_at is not None]
        for request in writing:
            if request.stream is not None and request.stream.done < len(request.stream.tokens):
                yield request, request.stream
        for request in writing:
            for stream in request.branches:
                yield request, stream
        for request in active:
            if request.stream is not None and request.first_token_at is None:
                yield request, request.stream
        for stream in self._prefix_streams:
            yield None, stream

    def _run_batch(self, taken: list[tuple[_Request | None, _Stream, int]]) -> list[Event]:
        began = perf_counter()
        requests = list(dict.fromkeys(request for request, _, _ in taken if request is not None))
        for request in requests:
            request.started_at = began if request.started_at is None else request.started_at
            request.batch = max(request.batch, len(requests))
        pieces = [stream.piece(count) for _, stream, count in taken]
        is_wide = sum(len(piece.tokens) for piece in pieces) >= _WIDE_BATCH
        try:
            starts = self._llama.decode(pieces, threads=self._prefill_threads if is_wide else self._threads)
        except (DecodeError, ValueError):
            _logger.exception("a step failed; the context is rebuilt")
            return self._recover(taken)
        now = perf_counter()
        events: list[Event] = []
        has_prefill = False
        for (request, stream, count), piece, start in zip(taken, pieces, starts, strict=True):
            stream.done += count
            if request is None:
                has_prefill = True
                continue
            if request.first_token_at is None:
                has_prefill = True
                self._totals.prompt_tokens += count
            if request.run.id in self._requests:
                rows = [start + offset for offset in piece.outputs]
                events += self._read(request, stream, rows, now)
        self._finish_prefixes()
        elapsed = perf_counter() - began
        self._totals.steps += 1
        self._totals.rows += len(requests)
        self._totals.prefill_s += elapsed if has_prefill else 0.0
        self._totals.decode_s += 0.0 if has_prefill else elapsed
        return events

    def _read(self, request: _Request, stream: _Stream, rows: list[int], now: float) -> list[Event]:
        """What a request makes of its logits."""
        try:
            if isinstance(request.answer, LabelAnswer):
                return self._read_labels(request, request.answer, stream, rows, now)
            return self._read_text(request, request.answer, stream, rows, now)
        except InvalidOutputError as error:
            code, message = FailureCode.NO_VALID_OUTPUT, str(error)
        except Exception as error:
            _logger.exception("request %d failed", request.run.id)
            code, message = FailureCode.INTERNAL, str(error)
        self._remove(request)
        return [Failed(id=request.run.id, code=code, message=message)]

    def _read_labels(
        self, request: _Request, answer: LabelAnswer, stream: _Stream, rows: list[int], now: float
    ) -> list[Event]:
        if stream.branch is None:
            if not rows:
                return []
            request.first_token_at = now
            if answer.tree.needs_prompt_logits:
                answer.take((), self._llama.logits(rows[0]))
        else:
            done = [index for index in stream.branch.outputs if index < stream.done - len(request.prompt)]
            for index, row in zip(done[len(done) - len(rows) :], rows, strict=True):
                answer.take(stream.branch.tokens[: index + 1], self._llama.logits(row))
            if stream.done == len(stream.tokens):
                request.branches.remove(stream)
                self._llama.forget(stream.seq_id)
                self._branch_ids.append(stream.seq_id)
        if request.branches or request.branches_left:
            return []
        return [self._finish(request, Finish.LABELS, text=None, scores=answer.scores(), reasoning=None, completion=0)]

    def _read_text(
        self, request: _Request, answer: TextAnswer, stream: _Stream, rows: list[int], now: float
    ) -> list[Event]:
        if not rows:
            return []
        if request.first_token_at is None:
            request.first_token_at = now
        before = answer.completion_tokens
        tokens = answer.next_tokens(rows[0])
        self._totals.completion_tokens += answer.completion_tokens - before
        stream.tokens += tokens
        stream.outputs = (len(stream.tokens) - 1,)
        events: list[Event] = []
        if answer.finish is not None:
            answer.check()
        if request.run.stream and (delta := answer.take_delta()):
            events.append(Partial(id=request.run.id, delta=delta))
        if answer.finish is not None:
            events.append(
                self._finish(
                    request,
                    answer.finish,
                    text=answer.text,
                    scores=None,
                    reasoning=answer.reasoning,
                    completion=answer.completion_tokens,
                )
            )
        return events

    def _finish(
        self,
        request: _Request,
        finish: Finish,
        *,
        text: str | None,
        scores: dict[str, float] | None,
        reasoning: str | None,
        completion: int,
    ) -> Finished:
        started, first = request.started_at, request.first_token_at
        assert started is not None
        assert first is not None
        self._remove(request)
        return Finished(
            id=request.run.id,
            finish=finish,
            text=text,
            scores=scores,
            reasoning=reasoning,
            prompt_tokens=len(request.prompt),
            cached_tokens=request.cached_tokens,
            completion_tokens=completion,
            prefill_ms=(first - started) * 1000,
            decode_ms=(perf_counter() - first) * 1000,
            batch=request.batch,
        )

    def _finish_prefixes(self) -> None:
        for stream in [stream for stream in self._prefix_streams if stream.done == len(stream.tokens)]:
            self._prefix_streams.remove(stream)
            if stream.prefix is not None:
                self._prefixes.ready(stream.prefix)

    def _recover(self, taken: list[tuple[_Request | None, _Stream, int]]) -> list[Event]:
        """After a failed step: its requests end, all others begin anew in an empty context. Raises ModelError."""
        failed = [request for request in dict.fromkeys(owner for owner, _, _ in taken) if request is not None]
        for lost in failed:
            self._remove(lost)
        for stream in self._prefix_streams:
            if stream.prefix is not None:
                self._prefixes.give_up(stream.prefix)
        self._prefix_streams.clear()
        for other in self._requests.values():
            if other.stream is not None:
                # Whatever writes was in the batch: these have not written anything yet.
                self._release(other)
                self._admission.put_back(other.run.id)
                other.first_token_at = None
                if isinstance(other.answer, LabelAnswer):
                    other.branches_left = list(other.answer.tree.branches)
        self._llama.reset()
        self._prefixes.drop_all()
        return [
            Failed(id=lost.run.id, code=FailureCode.INTERNAL, message="the model failed in this step")
            for lost in failed
        ]

    def _warm_up(self, seq_id: int) -> None:
        """One step that touches every weight, so that the first request does not wait for the disk."""
        self._llama.decode([Piece(seq_id, 0, [max(self._llama.eos, 0)], [0])], threads=self._threads)
        self._llama.forget(seq_id)

    def progress(self) -> Progress:
        totals = self._totals
        return Progress(
            active=self._admission.active,
            steps_total=totals.steps,
            rows_total=totals.rows,
            prompt_tokens_total=totals.prompt_tokens,
            cached_tokens_total=totals.cached_tokens,
            completion_tokens_total=totals.completion_tokens,
            prefill_s=totals.prefill_s,
            decode_s=totals.decode_s,
        )

    def close(self) -> None:
        for request in list(self._requests.values()):
            self._remove(request)
        for grammar, _ in self._grammars.values():
            grammar.close()
        self._llama.close()
