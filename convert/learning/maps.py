"""Fits score maps to the feedback of many boards."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agent import ScoreMap
from ..errors import ConvertError, escaped
from .agent import Export, board_map, read_export, shared_map


@dataclass(frozen=True, slots=True)
class Fitted:
    """The map of one definition of a task."""

    task: str
    definition: str
    boards: dict[str, int]
    """The number of corrections of each board, which is named site/device."""
    before: float
    """The share of corrections that the boards answer right without the map, cross-validated."""
    after: float
    """The same share with the map."""
    shared: ScoreMap | None
    """None if no better map was found."""
    own: dict[str, ScoreMap]
    """The maps of boards with biases of their own."""

    def entry(self, shared: ScoreMap) -> dict[str, Any]:
        """Its part of score_maps.json."""
        own = {board: own_map.to_json() for board, own_map in self.own.items()}
        return {"task": self.task, "map": shared.to_json(), "boards": own}


def read_feedback(path: Path) -> Export:
    """Raises ConvertError for a file that `edge-agent accuracy --out` did not write."""
    try:
        return read_export(path.read_bytes())
    except ValueError as error:
        raise ConvertError(f"{escaped(str(path))}: {escaped(str(error))}") from None


def fit_maps(exports: Iterable[Export], model: str) -> list[Fitted]:
    """One map per definition from the feedback of all boards. Audits that measure are left out. model: its hash.

    Raises ConvertError for exports of another model, and where there is too little feedback.
    """
    by_definition = defaultdict[str, dict[str, Export]](dict)
    for export in exports:
        where = f"{export.task} of {export.board}"
        if export.model != model:
            raise ConvertError(
                f"{escaped(where)}: its answers are of model {escaped(export.model)}, the bundle is {model}"
            )
        boards = by_definition[export.definition]
        if export.board in boards:
            raise ConvertError(f"{escaped(where)}: given twice")
        boards[export.board] = export
    return [_fit(list(boards.values())) for boards in by_definition.values()]


def _fit(exports: Sequence[Export]) -> Fitted:
    task, definition = exports[0].task, exports[0].definition
    marked = [one for export in exports for one in export.training]
    if not any(one.label == one.output for one in marked):
        raise ConvertError(
            f"{escaped(task)}: none of {len(marked)} answers with feedback is confirmed; "
            "a map that sees only mistakes would unlearn the rest"
        )
    rows = {export.board: [(one.scores, one.label) for one in export.training if one.label] for export in exports}
    start = next((export for export in exports if export.prior is not None and export.answers), None)
    labels = next(export.labels for export in exports if export.answers)
    try:
        found = shared_map(
            [row for of_board in rows.values() for row in of_board],
            ScoreMap.identity(labels) if start is None else start.map_of("prior"),
        )
    except ValueError as error:
        raise ConvertError(f"{escaped(task)}: {error}") from None
    own = {}
    if found.map is not None:
        own = {board: better for board, some in rows.items() if (better := board_map(some, found.map)) is not None}
    return Fitted(
        task, definition, {board: len(some) for board, some in rows.items()}, found.before, found.after, found.map, own
    )
