"""The engine waits a moment after answers: clients that ask again at once then share the next step."""


class Linger:
    """It waits only for as many requests as were answered, so a client that is alone never waits.

    share: of a step's time, for which the answered requests' places may stay empty.
    way_s: the time for an answer's way to its client and the next request's way back.
    """

    def __init__(self, share: float, way_s: float) -> None:
        self._share = share
        self._way_s = way_s
        self._missing = 0
        self._until = 0.0

    def requests_ended(self, count: int, *, of: int, step_s: float, now: float) -> None:
        """A step of `step_s` seconds ended `count` of the `of` running requests."""
        self._missing = count
        self._until = now + count * min(self._share * step_s / of, self._way_s)

    def request_added(self) -> None:
        """One of those that are waited for may have come."""
        self._missing -= 1

    def seconds(self, now: float) -> float:
        """How long to wait; 0 = not at all."""
        return max(0.0, self._until - now) if self._missing > 0 else 0.0
