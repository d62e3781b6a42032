"""What the service keeps: which files, how much of requests, and what it measured of the board."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from edge_agent.board.files import reason
from edge_agent.store.journal import journal_facts
from edge_agent.store.journal_connection import JournalError
from edge_agent.store.journal_file import FILE
from edge_agent.tools.diag.files import head, listing
from edge_agent.tools.diag.part import Part

_MOST_ENTRIES = 500
_JOURNAL_S = 8.0
_CALIBRATIONS = ("calibration.json", "models/*/calibration.json")
_MOST_BYTES = 20_000


def state(part: Part, state_dir: Path) -> None:
    """The journal of requests is counted: what callers asked and were answered is theirs, and never read."""
    part.document("state.json", list(listing(state_dir, _MOST_ENTRIES)))
    for pattern in _CALIBRATIONS:
        for path in sorted(state_dir.glob(pattern))[:10]:
            try:
                part.text(f"calibration-{path.parent.name}.json", head(path, _MOST_BYTES))
            except OSError as error:
                part.misses(f"{path}: {reason(error)}")
    part.leaves_out("the requests and answers in the journal, and decoded prompts: they are the customer's data")
    journal = state_dir / FILE
    try:
        if not journal.exists():
            return
        part.document("journal.json", {"path": str(journal), **asdict(journal_facts(journal, _JOURNAL_S))})
    except (OSError, JournalError) as error:
        part.misses(f"journal: {'not counted in time' if str(error) == 'interrupted' else reason(error)}")
