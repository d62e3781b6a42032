"""score_maps.json of a bundle: maps that were fitted to the feedback of many boards, by definition of the task.

{"schema": 1, "maps": {"<definition>": {"task", "map": <ScoreMap>, "boards": {"<site>/<device>": <ScoreMap>}}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import shown

FILE = "score_maps.json"
MAX_BYTES = 1_000_000
SCHEMA = 1


def read_score_maps(data: bytes) -> dict[str, Any]:
    """The entries by definition, each fit for `score_map_for`. Raises ValueError, which says the fault."""
    document = parse_json(data.decode())
    maps = document.get("maps") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(maps, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"should be an object of schema {SCHEMA} with maps")
    for definition, entry in maps.items():
        match entry:
            case {"map": dict(shared), "boards": dict(boards)}:
                try:
                    for board in (None, *boards):
                        score_map_for(entry, board, list(shared))
                except ValueError as error:
                    raise ValueError(f"maps: {shown(definition)}: {error}") from None
            case _:
                raise ValueError(f"maps: {shown(definition)} should be an object with map and boards")
    return maps


def score_map_for(entry: Mapping[str, Any], board: str | None, labels: Sequence[str]) -> ScoreMap:
    """The map of this board, `<site>/<device>`, and of one that the entry does not name.

    Raises ValueError if its labels are not those of the task, in that order, or it cannot be used.
    """
    return ScoreMap.from_json(entry["boards"].get(board, entry["map"]), labels)
