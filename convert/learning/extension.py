"""Extends a copy of a bundle: by score maps from the feedback of many boards, and by trained models as students."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agent import (
    SCORE_MAPS_FILE,
    SCORE_MAPS_SCHEMA,
    Export,
    Model,
    ScoreMap,
    board_map,
    model_facts,
    read_export,
    shared_map,
)
from ..errors import ConvertError, escaped
from ..write.bundle import copied_bundle, student_name, verify_bundle
from ..write.manifest import canonical_json


@dataclass(frozen=True, slots=True)
class FittedMap:
    """The map of one definition of a task."""

    task: str
    definition: str
    boards: dict[str, int]  # The number of corrections of each board, which is named site/device.
    before: float  # The share of corrections that the boards answer right without the map, cross-validated.
    after: float  # The same share with the map.
    shared: ScoreMap | None  # None if no better map was found.
    board_maps: dict[str, ScoreMap]  # The maps of boards with biases of their own.

    def entry(self, shared: ScoreMap) -> dict[str, Any]:
        """The map's part of score_maps.json."""
        boards = {board: own_map.to_json() for board, own_map in self.board_maps.items()}
        return {"task": self.task, "map": shared.to_json(), "boards": boards}


@dataclass(frozen=True, slots=True)
class ExtendedBundle:
    version: int
    fitted: list[FittedMap]  # The maps of all definitions; those that are not better are not written.
    students: dict[str, list[str]]  # The tasks of each student by its name.


def extend_bundle(
    bundle: Path,
    *,
    feedback: Sequence[Path] = (),
    students: Sequence[Path] = (),
    out: Path,
    replace: bool,
    version: int | None,
    expires: str | None,
    sign: Callable[[bytes], bytes] | None,
) -> ExtendedBundle:
    """Writes a copy of the bundle with maps fitted to exported feedback, and with the models of other bundles.

    Maps of other definitions stay, and so do students of other names. If `version` is None, it is one more than the
    highest of all given bundles, because a board may run any of them. If `expires` is None, the bundle's is kept.
    Raises ConvertError.
    """
    model = verify_bundle(bundle)
    fitted = _fit_maps(map(_read_feedback, feedback), model.weights_sha256)
    entries = {new.definition: new.entry(new.shared) for new in fitted if new.shared is not None}
    if fitted and not entries:
        raise ConvertError("no map is better than what the boards start from, so nothing is written")
    added = [(path, verify_bundle(path)) for path in students]
    tasks, files = _add_students(bundle, model, added) if students else ({}, {})
    version = version or 1 + max(given.version or 0 for given in (model, *(student for _, student in added)))
    with copied_bundle(bundle, out, replace=replace, version=version, expires=expires, sign=sign) as folder:
        if entries:
            maps = {"schema": SCORE_MAPS_SCHEMA, "maps": {**model.score_maps, **entries}}
            (folder / SCORE_MAPS_FILE).write_bytes(canonical_json(maps))
        for name, path in files.items():
            shutil.copyfile(path, folder / f"{name}{path.suffix}")
    return ExtendedBundle(version, fitted, tasks)


def _read_feedback(path: Path) -> Export:
    """Raises ConvertError for a file that `edge-agent accuracy --out` did not write."""
    try:
        return read_export(path.read_bytes())
    except ValueError as error:
        raise ConvertError(f"{escaped(str(path))}: {escaped(str(error))}") from None


def _fit_maps(exports: Iterable[Export], model: str) -> list[FittedMap]:
    """One map per definition from the feedback of all boards, except audits that measure. Raises ConvertError."""
    by_definition = defaultdict[str, dict[str, Export]](dict)
    for export in exports:
        where = f"{export.task} of {export.board}"
        if export.model != model:
            raise ConvertError(
                f"{escaped(where)}: its answers are from model {escaped(export.model)}, but the bundle has {model}"
            )
        boards = by_definition[export.definition]
        if export.board in boards:
            raise ConvertError(f"{escaped(where)}: given twice")
        boards[export.board] = export
    return [_fit(list(boards.values())) for boards in by_definition.values()]


def _fit(exports: Sequence[Export]) -> FittedMap:
    task, definition = exports[0].task, exports[0].definition
    marked = [answer for export in exports for answer in export.training]
    if not any(answer.label == answer.output for answer in marked):
        raise ConvertError(
            f"{escaped(task)}: none of {len(marked)} answers with feedback is confirmed; "
            "a map that sees only mistakes would unlearn the rest"
        )
    rows = {
        export.board: [(answer.scores, answer.label) for answer in export.training if answer.label]
        for export in exports
    }
    start = next((export for export in exports if export.prior is not None and export.answers), None)
    labels = next(export.labels for export in exports if export.answers)
    try:
        fit = shared_map(
            [row for board_rows in rows.values() for row in board_rows],
            ScoreMap.identity(labels) if start is None else start.map_of("prior"),
        )
    except ValueError as error:
        raise ConvertError(f"{escaped(task)}: {error}") from None
    board_maps = {}
    if fit.map is not None:
        board_maps = {board: better for board, some in rows.items() if (better := board_map(some, fit.map)) is not None}
    return FittedMap(
        task, definition, {board: len(some) for board, some in rows.items()}, fit.before, fit.after, fit.map, board_maps
    )


def _add_students(
    bundle: Path, large: Model, students: Sequence[tuple[Path, Model]]
) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """The tasks of all students, and the files of the new ones, by name. A new one replaces one of its name."""
    tasks = {student.name: [*student.tasks] for student in large.students}
    files = dict[str, Path]()
    for path, model in students:
        where = escaped(str(path))
        for name, (file, student_tasks) in _students_of(model, where).items():
            if file.suffix == ".gguf" and (large.tokens is None or model_facts(large.path).fields is not None):
                raise ConvertError(f"{escaped(str(bundle))}: is itself a model that `edge-convert train` made")
            if name in files:
                raise ConvertError(f"{where}: should have another name than the other students (got {name})")
            if lost := sorted(set(tasks.get(name, ())) - {*student_tasks}):
                rule = f"would replace {name}, and does not answer its task {escaped(lost[0])}; give it another --name"
                raise ConvertError(f"{where}: {rule}")
            files[name], tasks[name] = file, student_tasks
    all_tasks = [task for student_tasks in tasks.values() for task in student_tasks]
    if repeated := sorted({task for task in all_tasks if all_tasks.count(task) > 1}):
        names = ", ".join(map(escaped, repeated))
        hint = "train it with the --name of the old one to replace that"
        raise ConvertError(f"each task should have one student; {names} would have several; {hint}")
    return tasks, files


def _students_of(model: Model, where: str) -> dict[str, tuple[Path, list[str]]]:
    """The files of a bundle that become students, and their tasks, by name. Raises ConvertError."""
    if model.tokens is None:  # It holds nothing but what usual readings look like.
        return {student.name: (Path(student.path), [*student.tasks]) for student in model.students}
    if (fields := model_facts(model.path).fields) is None:
        raise ConvertError(f"{where}: should be a bundle that `edge-convert train` made")
    if not fields.label_sets:
        raise ConvertError(f"{where}: should have a task of the kind classify; such a student answers no other")
    return {student_name(model.bundle_name): (model.path, [*fields.label_sets])}
