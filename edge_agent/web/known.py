"""The boards that the page has heard, kept for its next process, because a broker may forget a dead board."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.core.topics import is_name
from edge_agent.tools.watch.site import Row
from edge_agent.web.journal import MAX_DAYS
from edge_agent.web.kept_file import KeptFile

_DAY_S = 86_400
# Times alone are written only this often, to spare a gateway's SD card. After a crash, they are up to this old.
_TIMES_EVERY_S = 600.0
_MAX_FILE_BYTES = 1_000_000


class KnownBoards:
    """When each last said its health, in seconds since 1970; None if that is unknown. Only the bus thread uses it."""

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path, "known boards", _MAX_FILE_BYTES)
        self._heard_at: dict[str, float | None] = {}
        self._saved: dict[str, float | None] = {}

    def read(self, wall: float) -> dict[str, float | None]:
        """How long ago each was heard, unless it was removed or silent for as long as the journal reaches back."""
        self._heard_at = self._saved = self._file.read(_times, {})
        ages_s = {device: None if at is None else max(0.0, wall - at) for device, at in self._heard_at.items()}
        return {device: age_s for device, age_s in ages_s.items() if age_s is None or age_s < MAX_DAYS * _DAY_S}

    def update(self, rows: Iterable[Row], wall: float) -> None:
        """Takes all boards there are, but keeps only those that have said their state, none that is merely expected.

        A name that no board may have was made up, and may be long.
        """
        before = self._heard_at
        self._heard_at = {
            row.device: before.get(row.device) if row.health_age_s is None else wall - row.health_age_s
            for row in rows
            if (row.state or row.device in before) and is_name(row.device)
        }

    def save(self, *, is_last: bool = False) -> None:
        """Writes them if boards have come or gone, or if the written times are too old."""
        is_late = any(
            at is not None and at - (self._saved.get(device) or 0) >= _TIMES_EVERY_S
            for device, at in self._heard_at.items()
        )
        if not (is_last or is_late or self._heard_at.keys() != self._saved.keys()):
            return
        if self._file.save({device: None if at is None else round(at) for device, at in self._heard_at.items()}):
            self._saved = self._heard_at


def _times(document: Any) -> dict[str, float | None]:
    return {str(device): None if at is None else float(at) for device, at in document.items()}
