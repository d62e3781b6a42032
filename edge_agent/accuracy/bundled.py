"""score_maps.json of a bundle: maps that were fitted to the feedback of many boards, by definition of the task.

{"schema": 1, "maps": {"<definition>": {"task", "labels", "scales", "biases", "boards": {"<site>/<device>": [biases]}}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.accuracy.score_map import ScoreMap
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
        try:
            if not isinstance(entry, dict) or not isinstance(entry.get("boards"), dict):
                raise ValueError("should be an object with boards")  # noqa: TRY004 - a fault of the file
            labels = _list(entry, "labels", str)
            for board in (None, *entry["boards"]):
                score_map_for(entry, board, labels)
        except ValueError as error:
            raise ValueError(f"maps: {shown(definition)}: {error}") from None
    return maps


def score_map_for(entry: Mapping[str, Any], board: str | None, labels: Sequence[str]) -> ScoreMap:
    """The map of this board, `<site>/<device>`, and of one that the entry does not name.

    labels: of the task, in its order. Raises ValueError where the entry has others, or cannot be used.
    """
    parts = [_list(entry, name, float, int) for name in ("scales", "biases")]
    if board is not None and board in entry["boards"]:
        parts[1] = _list(entry["boards"], board, float, int)
    found = ScoreMap(tuple(entry["labels"]), *map(tuple, parts))
    return ScoreMap.from_json(found.to_json(), labels)


def _list(of: Mapping[str, Any], name: str, *kinds: type) -> list[Any]:
    value = of.get(name)
    if not isinstance(value, list) or not all(type(one) in kinds for one in value):
        raise ValueError(f"{shown(name)} should be a list of {'text' if str in kinds else 'numbers'}")
    return value
