"""What all workers together have computed, from the totals that each worker reports about once a second."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.core.protocol import Progress

_NOTHING = Progress(
    active=0,
    steps_total=0,
    rows_total=0,
    prompt_tokens_total=0,
    cached_tokens_total=0,
    completion_tokens_total=0,
    prefix_hits_total=0,
    prefix_misses_total=0,
    prefill_s=0.0,
    decode_s=0.0,
    decoded_tokens_total=0,
)


@dataclass(slots=True)
class Throughput:
    """Totals over all workers, and the rates of the latest interval that had such work; None = there was none yet."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    busy_s: float = 0.0
    prefix_hits: int = 0
    prefix_misses: int = 0
    decode_tok_s: float | None = None
    prefill_tok_s: float | None = None
    batch_avg: float | None = None
    _last: Progress = field(default=_NOTHING, repr=False)

    @property
    def computed_tokens(self) -> int:
        """Of prompts and answers, without those that came from a cache."""
        return self.prompt_tokens - self.cached_tokens + self.completion_tokens

    def worker_started(self) -> None:
        """The next worker counts from zero."""
        self._last = _NOTHING

    def count(self, progress: Progress) -> None:
        last, self._last = self._last, progress
        prompt = progress.prompt_tokens_total - last.prompt_tokens_total
        cached = progress.cached_tokens_total - last.cached_tokens_total
        prefill_s = progress.prefill_s - last.prefill_s
        decode_s = progress.decode_s - last.decode_s
        decoded = progress.decoded_tokens_total - last.decoded_tokens_total
        steps = progress.steps_total - last.steps_total
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += progress.completion_tokens_total - last.completion_tokens_total
        self.prefix_hits += progress.prefix_hits_total - last.prefix_hits_total
        self.prefix_misses += progress.prefix_misses_total - last.prefix_misses_total
        self.busy_s += prefill_s + decode_s
        if decoded and decode_s > 0:
            self.decode_tok_s = round(decoded / decode_s, 2)
        if prompt > cached and prefill_s > 0:
            self.prefill_tok_s = round((prompt - cached) / prefill_s, 2)
        if steps:
            self.batch_avg = round((progress.rows_total - last.rows_total) / steps, 2)
