"""Adds trained models as students to a copy of a larger model's bundle."""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..agent import model_facts
from ..errors import ConvertError, escaped
from ..write.bundle import copied_bundle, verify_bundle

_LONGEST_NAME = 32


@dataclass(frozen=True, slots=True)
class WrittenStudents:
    """students: the tasks of each, by name."""

    version: int
    students: dict[str, list[str]]


def add_students(
    bundle: Path,
    students: Sequence[Path],
    *,
    out: Path,
    replace: bool,
    version: int | None,
    expires: str | None,
    sign: Callable[[bytes], bytes] | None,
) -> WrittenStudents:
    """Writes a copy of the bundle with the models of other bundles as students. One of the same name is replaced.

    version: None = one more than that of the bundle. expires: None = as the bundle. Raises ConvertError.
    """
    large = verify_bundle(bundle)
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
    taken = [task for of_one in tasks.values() for task in of_one]
    if repeated := sorted({task for task in taken if taken.count(task) > 1}):
        names = ", ".join(map(escaped, repeated))
        hint = "train it with the --name of the old one to replace that"
        raise ConvertError(f"each task should have one student; {names} would have several; {hint}")
    with copied_bundle(bundle, out, replace=replace, version=version, expires=expires, sign=sign) as copy:
        for name, path in files.items():
            shutil.copyfile(path, copy.folder / f"{name}.gguf")
    return WrittenStudents(copy.version, tasks)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_NAME] or "model"
