"""What follows from each reading of the board: limits for worker and dispatcher, and what requests cost."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent.board.energy import EnergySample
from edge_agent.board.governor import Capacity, Governor, Limits, Sample
from edge_agent.board.reading import BoardReading
from edge_agent.core.config import GovernorConfig
from edge_agent.core.protocol import Command, Ready, SetLimits
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.status.health import Throughput

log = logging.getLogger(__name__)

# Several sensors may hang for 2 s each before a pass is done. What is older is not how the board is.
STALE_AFTER_S = 10.0


class BoardControl:
    """Belongs to the agent's thread. `send` asks the worker, and does not block."""

    def __init__(
        self,
        config: GovernorConfig,
        dispatcher: Dispatcher,
        throughput: Throughput,
        send: Callable[[Command], object],
    ) -> None:
        self._reading = BoardReading()
        # When the board was last read, in seconds of the monotonic clock.
        self.read_at: float | None = None
        self._config = config
        self._governor = Governor(**config.model_dump())
        self._dispatcher = dispatcher
        self._throughput = throughput
        self._send = send

    @property
    def limits(self) -> Limits:
        return self._dispatcher.limits

    def reading(self, now: float) -> BoardReading:
        """The latest one; nothing but an error if it is old."""
        silent_s = 0.0 if self.read_at is None else now - self.read_at
        if silent_s <= STALE_AFTER_S:
            return self._reading
        return BoardReading(errors={"board": f"not read for more than {STALE_AFTER_S:g} s"})

    def spare_mb(self, now: float) -> float | None:
        """Memory that may be taken before the governor limits anything; None = unknown."""
        memory = self.reading(now).memory
        return self._governor.spare_mb(memory.available_mb, memory.total_mb)

    def reconfigure(self, config: GovernorConfig) -> None:
        """From the next reading on: another governor, which begins with what the board feels then."""
        if config != self._config:
            self._config = config
            self._governor = Governor(**config.model_dump(), capacity=self._governor.capacity)

    def worker_ready(self, ready: Ready) -> None:
        """Limits are shares of what this worker can do, and a new one knows of none."""
        self._governor.capacity = Capacity(
            decode_threads=ready.threads,
            prefill_threads=ready.prefill_threads,
            batch_tokens=ready.batch_tokens,
            max_active=ready.max_active,
        )
        self._tell_worker()

    def observe(self, reading: BoardReading, now: float) -> bool:
        """Takes in a reading; True if the governor's level is another one now."""
        self._reading, self.read_at = reading, now
        throughput = self._throughput
        self._dispatcher.energy.add(
            EnergySample(
                at_s=now,
                watts=reading.power.watts,
                busy_s=throughput.busy_s,
                tokens=throughput.prompt_tokens - throughput.cached_tokens + throughput.completion_tokens,
                is_active=self._dispatcher.active > 0,
            )
        )
        before = self.limits
        limits = self._governor.observe(
            Sample(
                at_s=now,
                soc_c=reading.thermal.soc_c,
                limit_c=reading.thermal.limit_c,
                undervoltage_now=reading.throttle.undervoltage_now,
                memory_available_mb=reading.memory.available_mb,
                memory_total_mb=reading.memory.total_mb,
            )
        )
        if limits == before:
            return False
        self._dispatcher.limits = limits
        self._tell_worker()
        if limits.level is before.level:
            return False
        log.warning("governor level=%s: %s", limits.level.name.lower(), limits.reason or "nothing is limited any more")
        return True

    def _tell_worker(self) -> None:
        limits = self.limits
        self._send(
            SetLimits(
                threads=limits.decode_threads,
                prefill_threads=limits.prefill_threads,
                batch_tokens=limits.batch_tokens,
                max_active=limits.max_active,
            )
        )
