"""The list of revocations is read each minute, so that an alarm tells what a new one means for the model in force.

Belongs to the agent's thread; the files are read in the background. `now` is in seconds of the monotonic clock.
"""

from collections.abc import Callable
from concurrent.futures import Future

from edge_agent.core.background import in_background
from edge_agent.core.config import Config
from edge_agent.core.model import ModelError
from edge_agent.models.trust import Trust, keep_revocations, read_trust
from edge_agent.worker.supervisor import Supervisor

INTERVAL_S = 60.0


class RevocationWatch:
    """A model that is revoked while it runs goes on, but does not open at the next start."""

    def __init__(
        self, config: Config, supervisor: Supervisor, report: Callable[[str | None, str | None], None]
    ) -> None:
        """`report` gets the fault of the list, and why the model in force must not be used; None where all is well."""
        self._config = config
        self._supervisor = supervisor
        self._report = report
        self._due_at = 0.0 if config.models["default"].revocations is not None else float("inf")
        self._reading: Future[Trust] | None = None
        self._revoked: str | None = None

    def tick(self, now: float) -> None:
        """To be called several times a second."""
        if self._reading is None:
            if now >= self._due_at:
                self._due_at = now + INTERVAL_S
                self._reading = in_background("revocations", self._read)
        elif self._reading.done():
            reading, self._reading = self._reading, None
            try:
                trust = reading.result()
            except ModelError as error:  # the key has gone since the start
                self._report(str(error), self._revoked)
                return
            model = self._supervisor.model
            self._revoked = trust.revocation(model.manifest_sha256, model.signed_by)
            self._report(trust.fault, self._revoked)

    def _read(self) -> Trust:
        trust = read_trust(self._config.models["default"], self._config.state_dir)
        keep_revocations(self._config.state_dir, trust)
        return trust
