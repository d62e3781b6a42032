"""Extends a copy of a bundle: by score maps from the feedback of many boards, and by trained models as students."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..agent import SCORE_MAPS_FILE, SCORE_MAPS_SCHEMA, Model, model_facts
from ..errors import ConvertError, escaped
from ..write.bundle import copied_bundle, verify_bundle
from ..write.manifest import canonical_json
from .maps import Fitted, fit_maps, read_feedback

_MAX_NAME_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Students:
    """The students of the extended bundle."""

    tasks: dict[str, list[str]] = field(default_factory=dict)
    """The tasks of each student by its name, also of those that the bundle had before."""
    files: dict[str, Path] = field(default_factory=dict)
    """The models of the added students by name."""


@dataclass(frozen=True, slots=True)
class Extended:
    """What the copy of the bundle has."""

    version: int
    fitted: list[Fitted]
    """The maps of all definitions; those that are not better are not written."""
    students: dict[str, list[str]]
    """The tasks of each student by its name."""


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
) -> Extended:
    """Writes a copy of the bundle with maps fitted to exported feedback, and with the models of other bundles.

    Maps of other definitions stay, and so do students of other names. version: None = one more than that of the
    bundle. expires: None = as the bundle. Raises ConvertError.
    """
    model = verify_bundle(bundle)
    fitted = fit_maps(map(read_feedback, feedback), model.weights_sha256)
    entries = {one.definition: one.entry(one.shared) for one in fitted if one.shared is not None}
    if fitted and not entries:
        raise ConvertError("no map is better than what the boards start from: nothing is written")
    added = _add_students(bundle, model, students) if students else Students()
    with copied_bundle(bundle, out, replace=replace, version=version, expires=expires, sign=sign) as copy:
        if entries:
            maps = {"schema": SCORE_MAPS_SCHEMA, "maps": {**model.score_maps, **entries}}
            (copy.folder / SCORE_MAPS_FILE).write_bytes(canonical_json(maps))
        for name, path in added.files.items():
            shutil.copyfile(path, copy.folder / f"{name}.gguf")
    return Extended(copy.version, fitted, added.tasks)


def _add_students(bundle: Path, large: Model, students: Sequence[Path]) -> Students:
    """A student replaces one of the same name. Raises ConvertError."""
    if model_facts(large.path).fields is not None:
        raise ConvertError(f"{escaped(str(bundle))}: is itself a model that `edge-convert train` made")
    tasks = {one.name: [*one.tasks] for one in large.students}
    files = dict[str, Path]()
    for path in students:
        model, where = verify_bundle(path), escaped(str(path))
        name, fields = f"student-{_slug(model.bundle_name)}", model_facts(model.path).fields
        if fields is None:
            raise ConvertError(f"{where}: should be a bundle that `edge-convert train` made")
        if name in files:
            raise ConvertError(f"{where}: should have another name than the other students (got {name})")
        if not fields.label_sets:
            raise ConvertError(f"{where}: should have a task of the kind classify; a student answers no other")
        if lost := sorted(set(tasks.get(name, ())) - fields.label_sets.keys()):
            rule = f"would replace {name}, and does not answer its task {escaped(lost[0])}; give it another --name"
            raise ConvertError(f"{where}: {rule}")
        files[name], tasks[name] = model.path, [*fields.label_sets]
    all_tasks = [task for of_student in tasks.values() for task in of_student]
    if repeated := sorted({task for task in all_tasks if all_tasks.count(task) > 1}):
        names = ", ".join(map(escaped, repeated))
        hint = "train it with the --name of the old one to replace that"
        raise ConvertError(f"each task should have one student; {names} would have several; {hint}")
    return Students(tasks, files)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_NAME_LENGTH] or "model"
