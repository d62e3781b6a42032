"""START HERE for the engine: one step after another, each a single llama_decode over all requests that have something.

Sequence ids, from 0: one per running request, one per label branch, one per task prefix, and one for idle rows.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from time import monotonic

from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.protocol import (
    Cancelled,
    EngineSettings,
    Event,
    Failed,
    FailureCode,
    Finish,
    Finished,
    Load,
    LoadPhase,
    Partial,
    Progress,
    RefusalCode,
    Refused,
    Run,
    SetLimits,
    TaskPrefix,
)
from edge_agent.engine.answer.answers import LabelAnswer, TextAnswer
from edge_agent.engine.answer.json_answer import InvalidOutputError, JsonAnswer
from edge_agent.engine.engine import EngineFacts, Totals, too_long
from edge_agent.engine.intake import Intake
from edge_agent.engine.llama import ContextSizes, DecodeAbortedError, DecodeError, Llama, Piece
from edge_agent.engine.prompt.chat_template import ChatError
from edge_agent.engine.prompt.prefix_cache import Prefix, PrefixCache
from edge_agent.engine.prompt.prefix_store import PrefixStore
from edge_agent.engine.prompt.task_prefixes import TaskPrefixes
from edge_agent.engine.request import Request, Stream
from edge_agent.engine.step import calibration
from edge_agent.engine.step.next_step import NextStep, Row
from edge_agent.engine.step.scheduler import Admission, Linger, Reservation
from edge_agent.engine.step.step_policy import StepPolicy

_logger = logging.getLogger(__name__)

# Where the configuration says nothing: wide enough for every kernel, and 30 MB of buffers.
_BATCH_TOKENS = 256
# Each sequence costs a row of logits (0.6 MB with Qwen's vocabulary), for llama.cpp keeps one per sequence id.
_BRANCHES = 6
_PREFIXES = 8
# Prefixes take at most this share of the cells.
_PREFIX_SHARE = 0.5

# On x86 agent, broker and client need about 2 ms for an answer and the next question, one after the other.
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
    """An Engine over a GGUF model. Raises ModelError if it cannot be opened; is warm when constructed.

    is_measured: False = its steps are not measured, and the same on every machine. progress: None = nobody is told.
    """

    def __init__(self, load: Load, *, is_measured: bool = True, progress: LoadProgress | None = None) -> None:
        progress = progress or LoadProgress(lambda _: None)
        settings = load.settings
        active, sizes = settings.max_active, context_sizes(settings)
        progress.enter(LoadPhase.WEIGHTS)
        adapters = [adapter.path for adapter in load.adapters]
        self._llama = Llama(load.model_path, sizes, adapters, advanced=progress.advance)
        self._max_active = active
        self._intake = Intake(self._llama)
        self._admission = Admission(max_active=active, cells=self._llama.context_tokens)
        self._request_ids = list(range(active))
        self._branch_ids = list(range(active, active + _BRANCHES))
        self._idle_id = sizes.sequences - 1
        self._idle_token = max(self._llama.eos, 0)
        cache = PrefixCache(
            range(active + _BRANCHES, self._idle_id), max_cells=int(self._llama.context_tokens * _PREFIX_SHARE)
        )
        self._prefixes = TaskPrefixes(self._llama, cache, _store(load, self._llama))
        self._requests: dict[int, Request] = {}
        self._is_short_of_cells = False
        self._linger = Linger(_LINGER_SHARE, _LINGER_WAY_S)
        self._totals = Totals()
        # The request that has the step that runs to itself: read by `interrupt` from another thread.
        self._stepping: int | None = None
        self._warm_up()
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

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            context_tokens=self._llama.context_tokens,
            max_active=self._max_active,
            threads=self._policy.threads(1),
            prefill_threads=self._policy.threads(self._policy.batch_tokens),
            batch_tokens=self._policy.batch_tokens,
            vocabulary=self._llama.vocabulary_size,
            cpu_variant=self._llama.cpu_variant,
            repacked_mib=self._llama.log.repacked_mib,
            prefill_tok_s=self._rows_per_s(self._policy.prompt_batch_tokens, outputs=1),
            decode_tok_s=self._rows_per_s(self._max_active, outputs=self._max_active),
            measure_s=self._measure_s,
        )

    def _rows_per_s(self, rows: int, *, outputs: int) -> float | None:
        seconds = self._policy.seconds(*self._policy.padded(rows, outputs))
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
        self._prefixes.want({task.task: self._intake.prefix(task) for task in tasks})
        self._prefixes.tend(self._free_cells)

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
        """For the thread that reads commands: end the step that runs if it is for this request alone, to be cancelled.

        Should it come too late, the next step is ended: nothing of it is lost, it is made again.
        """
        if self._stepping == request_id:
            self._llama.abort()

    def step(self) -> list[Event]:
        self._start_waiting()
        if not self._is_short_of_cells:
            self._prefixes.tend(self._free_cells)
        self._start_branches()
        batch = self._next_step.choose(self._requests.values())
        return self._run_batch([row for row, _ in batch], [count for _, count in batch]) if batch else []

    @property
    def _free_cells(self) -> int:
        return self._admission.free_cells(self._prefixes.cells)

    def _start_waiting(self) -> None:
        self._is_short_of_cells = False
        for key in self._admission.candidates():
            request = self._requests[key]
            found = self._prefixes.find(request.run.task, request.prompt, self._free_cells)
            is_started = found is not None and self._start(request, *found)
            if is_started:
                continue
            if self._admission.active:
                self._is_short_of_cells |= found is not None
                continue
            if found is not None:
                self._prefixes.make_room()
                is_started = self._start(request, None, 0)
            if not is_started:
                # Nobody's end makes room for it: no other prefix may take what it waits for.
                self._is_short_of_cells = True
                return

    def _start(self, request: Request, prefix: Prefix | None, shared: int) -> bool:
        cells = len(request.prompt) - shared + request.extra_cells(_BRANCHES)
        if not self._admission.start(Reservation(request.run.id, cells), self._prefixes.cells):
            return False
        stream = request.start(self._request_ids.pop(), shared)
        if prefix is not None:
            self._prefixes.share(prefix, stream.seq_id, shared)
        request.stream, request.prefix, request.cached_tokens = stream, prefix, shared
        self._totals.count_start(shared)
        return True

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

    def _run_batch(self, rows: list[Row], counts: list[int]) -> list[Event]:
        began = monotonic()
        requests = [owner for owner in dict.fromkeys(owner for owner, _ in rows) if owner is not None]
        for request in requests:
            request.started_at = began if request.started_at is None else request.started_at
            request.batch = max(request.batch, len(requests))
        pieces = [stream.piece(count) for (_, stream), count in zip(rows, counts, strict=True)]
        owners = {None if owner is None else owner.run.id for owner, _ in rows}
        self._stepping = owners.pop() if len(owners) == 1 else None
        try:
            starts = self._decode(pieces)
        except DecodeAbortedError:
            return []
        except (DecodeError, ValueError):
            _logger.exception("a step failed; the context is rebuilt")
            return self._recover(requests)
        finally:
            self._stepping = None
        now = monotonic()
        self._share_out(now - began, rows, counts)
        has_prefill = any(owner is None or owner.first_token_at is None for owner, _ in rows)
        events: list[Event] = []
        for (owner, stream), piece, start in zip(rows, pieces, starts, strict=True):
            before = stream.done
            stream.done += len(piece.tokens)
            if owner is None:
                self._prefixes.decoded(stream)
                continue
            if owner.first_token_at is None:
                # What the answer begins with is no prompt.
                self._totals.prompt_tokens += max(min(stream.done, len(owner.prompt)) - before, 0)
            # A branch of a request may have ended it a moment ago.
            if owner.run.id in self._requests:
                events += self._read(owner, stream, [start + offset for offset in piece.outputs], now)
        self._totals.count_step(
            rows=len(requests), tokens=sum(counts), elapsed_s=monotonic() - began, has_prefill=has_prefill
        )
        if ended := sum(isinstance(event, (Finished, Failed)) for event in events):
            running = self._admission.active + ended
            self._linger.answered(ended, of=running, step_s=now - began, now=monotonic())
        return events

    def _decode(self, pieces: list[Piece]) -> list[int]:
        """One pass, with idle rows and outputs added where wider kernels are faster. Raises as Llama.decode."""
        rows = sum(len(piece.tokens) for piece in pieces)
        outputs = sum(len(piece.outputs) for piece in pieces)
        padded_rows, padded_outputs = self._policy.padded(rows, outputs)
        if padded_rows - rows > self._free_cells:
            padded_rows, padded_outputs = rows, outputs
        padding = [Piece(self._idle_id, 0, [self._idle_token] * (padded_rows - rows))] if padded_rows > rows else []
        padded = _with_outputs([*pieces, *padding], padded_outputs - outputs)
        try:
            return self._llama.decode(padded, threads=self._policy.threads(padded_rows))[: len(pieces)]
        finally:
            self._llama.forget(self._idle_id)

    def _share_out(self, elapsed_s: float, rows: list[Row], counts: list[int]) -> None:
        per_row_s = elapsed_s / sum(counts)
        for (owner, _), count in zip(rows, counts, strict=True):
            if owner is not None:
                owner.share_s += count * per_row_s

    def _read(self, request: Request, stream: Stream, rows: list[int], now: float) -> list[Event]:
        """What a request makes of its logits: a mistake of one request must not reach the others."""
        try:
            if rows and stream.branch is None and request.first_token_at is None:
                request.first_token_at = now
            if isinstance(request.answer, LabelAnswer):
                return self._read_labels(request, request.answer, stream, rows)
            return self._read_text(request, request.answer, stream, rows)
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
        self, request: Request, answer: JsonAnswer | TextAnswer, stream: Stream, rows: list[int]
    ) -> list[Event]:
        before = answer.completion_tokens
        for row in rows:
            following = answer.next_tokens(row)
            if answer.finish is not None or not stream.decide(following):
                break
        self._llama.cut(stream.seq_id, stream.done)
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
            prompt_crc32=self._intake.prompt_crc32(request.prompt),
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
            self._prefixes.release(request.prefix)
            request.prefix = None

    def _recover(self, failed: list[Request]) -> list[Event]:
        """After a failed step its requests end, all others begin anew in an empty context. Raises ModelError.

        Those that write text end, too: half of an answer, its sampler and its grammar cannot begin anew.
        """
        failed = failed + [
            request
            for request in self._requests.values()
            if request not in failed and request.first_token_at is not None and isinstance(request.answer, TextAnswer)
        ]
        for request in failed:
            self._remove(request)
        for request in reversed(self._requests.values()):
            if request.stream is not None:
                self._release(request)
                self._admission.put_back(request.run.id)
                request.begin_anew()
        self._llama.reset()
        self._prefixes.reset()
        message = "the model failed in this step"
        return [Failed(id=request.run.id, code=FailureCode.INTERNAL, message=message) for request in failed]

    def _warm_up(self) -> None:
        """One step that touches every weight, and what a grammar needs: the first request waits for neither."""
        self._llama.decode([Piece(self._idle_id, 0, [self._idle_token], [0])], threads=calibration.cpus())
        self._llama.forget(self._idle_id)

    def close(self) -> None:
        for request in list(self._requests.values()):
            self._remove(request)
        self._llama.close()


def _with_outputs(pieces: list[Piece], count: int) -> list[Piece]:
    """The same with logits after so many more of their rows, from the last one on."""
    found: list[Piece] = []
    for piece in reversed(pieces):
        spare = [offset for offset in range(len(piece.tokens)) if offset not in piece.outputs][:count]
        count -= len(spare)
        found.append(replace(piece, outputs=[*piece.outputs, *spare]) if spare else piece)
    return found[::-1]


def _store(load: Load, llama: Llama) -> PrefixStore | None:
    if not load.state_dir or not load.model_sha256:
        return None
    return PrefixStore(Path(load.state_dir) / "prefixes", f"{load.weights_sha256}, {llama.build}")
