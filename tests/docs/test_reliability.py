"""docs/reliability.md names figures as they are in the source."""

import pytest

from edge_agent.board import governor
from edge_agent.core.config import GovernorConfig, QueueConfig
from edge_agent.core.pipe import LOAD_SILENCE_S
from edge_agent.mqtt import outbox
from edge_agent.requests import delivery, duplicates
from edge_agent.store import fsync
from edge_agent.worker import process, supervisor
from tests.docs.pages import page


@pytest.mark.parametrize(
    "words",
    [
        f"after {process.ANSWER_SILENCE_S:g} s of silence",
        f"alarm `worker-silent` after {supervisor.SILENT_AFTER_S:g} s",
        f"a load makes no progress for {LOAD_SILENCE_S:g} s",
        f"a pause of {supervisor.RESTART_AFTER_S[0]:g} s, 2 s, … {supervisor.RESTART_AFTER_S[1]:g} s",
        f"it holds {supervisor.GROWTH_MIB:g} MiB more",
        f"up to {outbox.MAX_QUEUED:,} messages wait",
        f"after {outbox.MAX_BREAKS} connections in a row that break within {outbox.BREAKS_WITHIN_S:g} s",
        f"sent again for {delivery.MAX_TRIES * delivery.RETRY_S / 60:g} minutes",
        f"All that happens within {fsync.URGENT_EVERY_S:g} s shares one write",
        f"`queue.dedup_window_s`, {QueueConfig().dedup_window_s:g} s",
        f"{duplicates.MAX_REPLIES:,} replies and {duplicates.MAX_BYTES >> 20} MB at most",
        f"`governor.headroom_c`, {GovernorConfig().headroom_c:g} °C",
        f"ease by one step in {governor.RELAX_S:g} s",
    ],
)
def test_figures_are_those_of_the_source(words: str) -> None:
    assert words in " ".join(page("reliability").split())
