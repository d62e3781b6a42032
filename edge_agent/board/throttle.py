"""Whether, and why, a board is slowed down: one answer from what its firmware and kernel report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_agent.board.reading import Throttle, ThrottleCause


class ThrottleMemory:
    """Remembers what was seen: rpi_volt clears the firmware's bits every two seconds, and other boards have none."""

    def __init__(self) -> None:
        self._was_throttled = self._was_undervoltage = False

    def update(self, readings: Sequence[Throttle], *, is_blind: bool) -> Throttle:
        """Takes in what each source reports now. is_blind: an existing source is silent."""
        now = _any((one.now for one in readings), is_blind=is_blind)
        undervoltage = _any((one.undervoltage_now for one in readings), is_blind=is_blind)
        since_boot = _any((one.since_boot for one in readings), is_blind=is_blind)
        undervoltage_since_boot = _any((one.undervoltage_since_boot for one in readings), is_blind=is_blind)
        self._was_throttled |= bool(now or since_boot)
        self._was_undervoltage |= bool(undervoltage or undervoltage_since_boot)
        causes = {cause for one in readings for cause in one.causes}
        return Throttle(
            now=now,
            since_boot=self._was_throttled or (now if since_boot is None else since_boot),
            causes=tuple(cause for cause in ThrottleCause if cause in causes),
            undervoltage_now=undervoltage,
            undervoltage_since_boot=self._was_undervoltage
            or (undervoltage if undervoltage_since_boot is None else undervoltage_since_boot),
        )


def _any(values: Iterable[bool | None], *, is_blind: bool) -> bool | None:
    """True is true if one source says so. False takes the word of every source, else it is unknown."""
    known = {value for value in values if value is not None}
    return True if True in known else False if known and not is_blind else None
