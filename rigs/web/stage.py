"""A small site in which every screen has something to show."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from rigs.web.site import SimulatedSite

CRITICAL, OFFLINE, STALE, LIMITED = "press-04", "oven-2", "lathe-01", "press-05"
FINE = ("cabinet", "conveyor-01")
DEVICES = (CRITICAL, OFFLINE, STALE, LIMITED, *FINE)
HEAT = "84.4 °C, limit 85 °C: cool the board, or send it fewer requests"


class Stage:
    """The site, and the boards that publish health until they are silenced."""

    def __init__(self, site: SimulatedSite, interval_s: float) -> None:
        self.site, self.interval_s = site, interval_s
        self._speaking = {CRITICAL, LIMITED, *FINE}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def begin(self) -> None:
        self.site.start()
        self.site.alarm(CRITICAL, "overheating", message=HEAT)
        self.site.alarm(CRITICAL, "throttled", "warning", "the SoC is slowed down because it is too hot")
        self.site.state(OFFLINE, "offline", "connection-lost")
        self.site.event(CRITICAL)
        for device in self._speaking:
            self._health(device)
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def silence(self, device: str) -> None:
        self._speaking.discard(device)

    def audits(self, count: int, **fields: object) -> list[dict[str, object]]:
        """Answers that ask to be checked, the oldest first."""
        return [
            self.site.answer(CRITICAL if number % 2 else FINE[0], is_audit=True, **fields) for number in range(count)
        ]

    def ask_and_answer(self, audits: int = 12) -> None:
        """Answers, audits and an unusual reading, which reach only those who are connected now."""
        for number in range(6):
            reading = {"vibration_mm_s": 3.1 + number, "temperature_c": 61.5}
            fields: dict[str, Any] = {"input": reading} if number % 2 else {}
            self.site.answer(FINE[number % 2], **fields)
        self.audits(audits)
        self.site.unusual(CRITICAL)

    def _speak(self) -> None:
        while not self._is_over.wait(self.interval_s):
            for device in list(self._speaking):
                self._health(device)

    def _health(self, device: str) -> None:
        hot = {"soc_c": 84.4, "headroom_c": 0.6, "throttled_now": True, "causes": ["thermal"]}
        if device == CRITICAL:
            queue = {"depth": 57, "oldest_ms": 12_000.0}
            self.site.health(device, overall="critical", reasons=["overheating"], thermal=hot, queue=queue)
            values = {"vibration_mm_s": [7.9, 0.4], "temperature_c": [81.5, 2.0], "pressure_bar": [None, None]}
            self.site.signals(device, "pump", M7=values)
        elif device == LIMITED:
            self.site.health(device, overall="degraded", reasons=["undervoltage"], power={"undervoltage_now": True})
        else:
            self.site.health(device)


@contextmanager
def staged(port: int, *, interval_s: float = 2.0, user: tuple[str, str] | None = None) -> Iterator[Stage]:
    """Boards in every condition, which they reach within three intervals."""
    with closing(SimulatedSite(port, DEVICES, health_interval_s=interval_s, user=user)) as site:
        stage = Stage(site, interval_s)
        stage.begin()
        try:
            yield stage
        finally:
            stage.end()
