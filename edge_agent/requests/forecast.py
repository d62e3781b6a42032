"""When a request will be answered, estimated from how long earlier ones took.

Each kind of request has two figures, because the engine runs several requests at once. Its share of the engine's time
adds up over the requests before it. Its run, from hand-over to end, grows with the requests that run beside it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edge_agent.core.protocol import LabelsPlan, Run
from edge_agent.requests.request import Kind, Request

# The caution of every estimate: the work ahead plus two standard deviations, and a run that 95 of 100 do not exceed.
# An engine with nothing else to do tries what is likely in time.
CAUTIOUS_DEVIATIONS = 2.0
CAUTIOUS_PERCENT, LIKELY_PERCENT = 95, 50
# Runs that a percentile is taken of.
WINDOW = 64
# Weight of the latest share in the mean and in the variance, once there are many.
SMOOTHING = 0.1
# A figure counts for 5 s per run behind it, a minute at most. Then a request that it speaks against is tried again.
BELIEVED_PER_RUN_S, BELIEVED_S = 5.0, 60.0
# A run that was cut off takes at least this much longer than it got.
CUT_OFF_FACTOR = 1.1
CHARACTERS_PER_TOKEN = 4


def kind_of(run: Run) -> Kind:
    """Requests of one kind take about as long."""
    characters = sum(len(message.content) for message in run.messages if message.role != "system")
    tokens = 0 if isinstance(run.plan, LabelsPlan) else run.max_tokens
    return (run.task, characters.bit_length(), tokens.bit_length())


@dataclass(slots=True)
class Expectation:
    """What a request takes. share_s: mean seconds of the engine's time; variance: of the share, in s².

    measured_at: None = it is a guess from the engine's rates.
    """

    share_s: float = 0.0
    variance: float = 0.0
    measured_at: float | None = None
    _count: int = 0
    # How many requests ran at once, and the run in seconds.
    _runs: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _percentiles: dict[tuple[int, int], float] = field(default_factory=dict)

    def measure(self, *, share_s: float, run_s: float, batch: int, now: float) -> None:
        self._count += 1
        weight = max(SMOOTHING, 1 / self._count)
        deviation_s = share_s - self.share_s
        self.share_s += weight * deviation_s
        self.variance = (1 - weight) * (self.variance + weight * deviation_s * deviation_s)
        self._runs.append((batch, run_s))
        self._percentiles.clear()
        self.measured_at = now

    def run_s(self, percent: int, beside: int) -> float:
        """The run that `percent` of 100 requests do not exceed while `beside` of them run at once."""
        known = self._percentiles.get((percent, beside))
        if known is None:
            runs = [run_s for batch, run_s in self._runs if batch <= beside] or [run_s for _, run_s in self._runs]
            rank = math.ceil(len(runs) * percent / 100)
            known = sorted(runs)[rank - 1] if runs else self.share_s * beside
            self._percentiles[percent, beside] = known
        return known

    @property
    def believed_until(self) -> float:
        if self.measured_at is None:
            return math.inf
        return self.measured_at + min(BELIEVED_S, BELIEVED_PER_RUN_S * self._count)


@dataclass(slots=True, kw_only=True)
class Backlog:
    """The work before a request. slots: requests that the engine runs at once; 0 = there is no engine.

    count: requests. work_s: seconds of the engine's time, with its variance. is_known: nothing is missing in work_s.
    """

    slots: int
    count: int = 0
    work_s: float = 0.0
    variance: float = 0.0
    is_known: bool = True

    def add(self, expected: Expectation | None) -> None:
        """A request that waits."""
        self.count += 1
        if expected is None:
            self.is_known = False
            return
        self.work_s += expected.share_s
        self.variance += expected.variance

    def add_running(self, expected: Expectation | None, elapsed_s: float, beside: int) -> None:
        """A request that was handed over elapsed_s ago, one of `beside` that run at once."""
        self.add(expected)
        if expected is not None:
            # Beyond the longest usual run the engine is slow now: the request is expected to need as long again.
            overdue_s = max(0.0, elapsed_s - expected.run_s(CAUTIOUS_PERCENT, beside))
            done_s = min(expected.share_s, elapsed_s / beside)
            self.work_s += overdue_s / beside - done_s

    def answered_in_s(self, own: Expectation) -> float:
        """When a request that comes after this work is answered, in nearly all cases."""
        if not self.count:
            return own.run_s(LIKELY_PERCENT, 1)
        beside = max(1, min(self.slots, self.count + 1))
        run_s = max(own.run_s(CAUTIOUS_PERCENT, beside), own.share_s * beside)
        if self.count < self.slots:
            return run_s
        return run_s + self.work_s + CAUTIOUS_DEVIATIONS * math.sqrt(self.variance)


@dataclass(frozen=True, slots=True)
class Prediction:
    """takes_s: until the newcomer is answered. makes_late: an admitted request of its priority would miss its deadline.

    is_alone: nothing is ahead of it. believed_until: from then on the newcomer is tried all the same.
    """

    takes_s: float
    makes_late: bool
    is_alone: bool
    believed_until: float


class Forecast:
    """What is known of each kind of request, and of each task over all its kinds."""

    def __init__(self) -> None:
        self._measured: dict[Kind | str, Expectation] = {}
        self._guessed: dict[Kind, Expectation] = {}
        self._prefill_tok_s: float | None = None
        self._decode_tok_s: float | None = None

    def clear(self) -> None:
        """Another model answers from now on: what was measured says nothing about it."""
        self._measured.clear()
        self.set_rates(None, None)

    def set_rates(self, prefill_tok_s: float | None, decode_tok_s: float | None) -> None:
        """The engine's tokens per second; None = not measured."""
        self._prefill_tok_s, self._decode_tok_s = prefill_tok_s, decode_tok_s
        self._guessed.clear()

    def measure(self, kind: Kind, *, share_s: float, run_s: float, batch: int, now: float) -> None:
        """A request has taken this long: see Expectation."""
        for key in (kind, kind[0]):
            self._measured.setdefault(key, Expectation()).measure(share_s=share_s, run_s=run_s, batch=batch, now=now)

    def measure_cut_off(self, kind: Kind, *, run_s: float, beside: int, now: float) -> None:
        """A request was stopped after run_s: it takes longer than that.

        Without this, requests that never make their deadline would never be measured, and be admitted forever.
        """
        expected = self.expect(kind)
        least_s = CUT_OFF_FACTOR * run_s
        if expected is None or expected.measured_at is None or expected.run_s(LIKELY_PERCENT, beside) < least_s:
            self.measure(kind, share_s=least_s / beside, run_s=least_s, batch=beside, now=now)
        else:
            expected.measured_at = now

    def expect(self, kind: Kind) -> Expectation | None:
        """By what was measured of the kind, else of its task, else by the engine's rates; None = unknown."""
        return self._measured.get(kind) or self._measured.get(kind[0]) or self._guess(kind)

    def predict(
        self, newcomer: Request, earlier: Iterable[Request], later: Iterable[Request], running: Backlog, now: float
    ) -> Prediction | None:
        """What happens if the newcomer starts between these waiting requests; None = unknown."""
        own = self.expect(newcomer.kind)
        if own is None or now >= own.believed_until:
            return None
        before = self.add(earlier, running)
        takes_s = before.answered_in_s(own)
        is_alone, makes_late = not before.count, False
        after = self.add([newcomer], before)
        for request in later:
            expected = self.expect(request.kind)
            if request.priority == newcomer.priority and expected is not None:
                left_s = request.deadline_at - now
                makes_late |= before.answered_in_s(expected) <= left_s < after.answered_in_s(expected)
            before.add(expected)
            after.add(expected)
        return Prediction(takes_s, makes_late, is_alone, own.believed_until)

    def add(self, requests: Iterable[Request], backlog: Backlog) -> Backlog:
        """The backlog with these waiting requests in it, too."""
        total = replace(backlog)
        for request in requests:
            total.add(self.expect(request.kind))
        return total

    def _guess(self, kind: Kind) -> Expectation | None:
        if self._prefill_tok_s is None or self._decode_tok_s is None:
            return None
        if kind not in self._guessed:
            _, characters, tokens = kind
            prompt_s = _mean_size(characters) / CHARACTERS_PER_TOKEN / self._prefill_tok_s
            self._guessed[kind] = Expectation(share_s=prompt_s + _mean_written(tokens) / self._decode_tok_s)
        return self._guessed[kind]


def _mean_size(magnitude: int) -> float:
    """Of the numbers with this many binary digits."""
    return 0.75 * 2**magnitude if magnitude else 0.0


def _mean_written(magnitude: int) -> float:
    """Tokens of an answer with this limit, if each magnitude up to it is as likely.

    Few answers are as long as they may be: with the limit itself, the first burst would be refused for nothing.
    """
    return (2**magnitude - 1) / magnitude if magnitude else 0.0
