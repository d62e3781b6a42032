"""Fits score maps to the feedback of many boards, and adds them to a copy of a bundle."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agent import SCORE_MAPS_FILE, SCORE_MAPS_SCHEMA, Export, ScoreMap, fit_board_map, fit_shared_map, read_export
from ..errors import ConvertError, escaped
from ..write.bundle import copied_bundle, verify_bundle
from ..write.manifest import canonical_json


@dataclass(frozen=True, slots=True)
class Fitted:
    """The map of one definition of a task. boards: site/device -> corrections; own: the maps of boards with biases.

    before, after: shares of right answers of the corrections, cross-validated. shared: None = no better one was found.
    """

    task: str
    definition: str
    boards: dict[str, int]
    before: float
    after: float
    shared: ScoreMap | None
    own: dict[str, ScoreMap]

    def entry(self, shared: ScoreMap) -> dict[str, Any]:
        """Its part of score_maps.json."""
        own = {board: found.to_json() for board, found in self.own.items()}
        return {"task": self.task, "map": shared.to_json(), "boards": own}


@dataclass(frozen=True, slots=True)
class WrittenMaps:
    """fitted: also those without a better map, which are not written."""

    version: int
    fitted: list[Fitted]


def add_maps(
    bundle: Path,
    exports: Sequence[Path],
    *,
    out: Path,
    replace: bool,
    version: int | None,
    expires: str | None,
    sign: Callable[[bytes], bytes] | None,
) -> WrittenMaps:
    """Writes a copy of the bundle with the maps. version: None = one more than that of the bundle.
    expires: None = as the bundle.

    Maps of other definitions that the bundle has stay. Raises ConvertError.
    """
    model = verify_bundle(bundle)
    fitted = fit_maps([_read(path) for path in exports], model.weights_sha256)
    entries = {one.definition: one.entry(one.shared) for one in fitted if one.shared is not None}
    if not entries:
        raise ConvertError("no map is better than what the boards start from: nothing is written")
    maps = {"schema": SCORE_MAPS_SCHEMA, "maps": {**model.score_maps, **entries}}
    with copied_bundle(bundle, out, replace=replace, version=version, expires=expires, sign=sign) as copy:
        (copy.folder / SCORE_MAPS_FILE).write_bytes(canonical_json(maps))
    return WrittenMaps(copy.version, fitted)


def fit_maps(exports: Iterable[Export], model: str) -> list[Fitted]:
    """One map per definition from the feedback of all boards; audits that measure are left out. model: their hashes.

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
        found = fit_shared_map(
            [row for of_board in rows.values() for row in of_board],
            ScoreMap.identity(labels) if start is None else start.map_of("prior"),
        )
    except ValueError as error:
        raise ConvertError(f"{escaped(task)}: {error}") from None
    own = {}
    if found.map is not None:
        own = {board: better for board, some in rows.items() if (better := fit_board_map(some, found.map)) is not None}
    return Fitted(
        task, definition, {board: len(some) for board, some in rows.items()}, found.before, found.after, found.map, own
    )


def _read(path: Path) -> Export:
    try:
        return read_export(path.read_bytes())
    except ValueError as error:
        raise ConvertError(f"{escaped(str(path))}: {escaped(str(error))}") from None
