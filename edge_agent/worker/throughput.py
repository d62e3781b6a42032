"""What all workers together have computed, from the totals that each worker reports about once a second."""

from dataclasses import dataclass, field

from edge_agent.core.pipe import Progress


@dataclass(slots=True)
class Throughput:
    """Totals over all workers, and the rates of the latest interval with such work; None if there was none yet."""

    prompt_tokens_total: int = 0
    completion_tokens_total: int = 0
    cached_tokens_total: int = 0
    busy_s: float = 0.0
    decode_tok_s: float | None = None
    prefill_tok_s: float | None = None
    batch_avg: float | None = None
    _last: Progress = field(default_factory=Progress, repr=False)

    @property
    def computed_tokens(self) -> int:
        """The tokens of prompts and answers, without those that came from a cache."""
        return self.prompt_tokens_total - self.cached_tokens_total + self.completion_tokens_total

    def on_worker_ready(self) -> None:
        """The next worker counts from zero."""
        self._last = Progress()

    def count(self, progress: Progress) -> None:
        last, self._last = self._last, progress
        prompt = progress.prompt_tokens_total - last.prompt_tokens_total
        cached = progress.cached_tokens_total - last.cached_tokens_total
        prefill_s = progress.prefill_s - last.prefill_s
        decode_s = progress.decode_s - last.decode_s
        decoded = progress.decoded_tokens_total - last.decoded_tokens_total
        steps = progress.steps_total - last.steps_total
        self.prompt_tokens_total += prompt
        self.cached_tokens_total += cached
        self.completion_tokens_total += progress.completion_tokens_total - last.completion_tokens_total
        self.busy_s += prefill_s + decode_s + progress.students_s - last.students_s
        if decoded and decode_s > 0:
            self.decode_tok_s = round(decoded / decode_s, 2)
        if prompt > cached and prefill_s > 0:
            self.prefill_tok_s = round((prompt - cached) / prefill_s, 2)
        if steps:
            self.batch_avg = round((progress.rows_total - last.rows_total) / steps, 2)
