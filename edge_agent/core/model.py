"""A checked model: what a bundle or a bare file holds, and whether its files are still the same."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_agent.core.pipe import Adapter, EngineSettings, Load, Student, TaskPrefix, weights_sha256

Signature = Literal["good", "unchecked"]
# This many characters of a key's SHA-256 are enough to tell keys apart.
SHOWN_OF_KEY = 16
# Inode, size, and times of modification and change of a file.
Stamp = tuple[int, int, int, int]


class ModelError(Exception):
    """The model cannot be opened; the message names the file and the fault."""


class RevokedError(ModelError):
    """The bundle, or the key that signed it, is revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model whose files were checked."""

    key: str  # The name of its table in `[models]`.
    source: Path  # The folder or file that was opened, with links resolved.
    path: Path  # The file model.gguf, whose hash and size follow.
    bundle_name: str
    version: int | None = None
    sha256: str
    quantization: str
    reads_fields: bool = False  # It is a trained model, which reads the fields of an input instead of a chat.
    size_bytes: int
    licence: str | None = None
    context_length: int | None = None
    tokens: int | None = None  # The size of the vocabulary.
    all_tokens: int | None = None  # The size of the vocabulary that its checkpoint had.
    bytes_per_token: int | None = None  # How many bytes of weights each step reads.
    signature: Signature | None = None
    """It is "unchecked" if no key is configured, and None if the bundle has no signature."""
    signed_by: str | None = None  # SHA-256 of the key that verified the signature.
    manifest_sha256: str | None = None
    expires: str | None = None  # RFC 3339; a model without it never expires.
    warning: str | None = None  # What the operator should know.
    adapters: tuple[Adapter, ...] = ()  # All are applied together.
    students: tuple[Student, ...] = ()  # They are asked before the model, or instead of it.
    score_maps: Mapping[str, Any] = field(default_factory=dict)
    """The checked entries of score_maps.json, by the task's definition."""
    label_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a trained model, the labels of each task that has some."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """For a trained model, the template of each task, if it is known."""
    held_out: Mapping[str, tuple[tuple[float, int, int], ...]] = field(default_factory=dict)
    """For a trained model, how right it was on rows that its training held out, by task; see TaskFields."""
    held_out_odd: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By task, how many of these rows were unlike the training's or had an odd field, and how many there were."""
    learnt_from: Mapping[str, bytes] = field(default_factory=dict)
    """By task, the fingerprints of the inputs that it learnt from, one after the other, if they are known."""
    chat_template_sha256: str | None = None
    stamps: tuple[Stamp, ...] | None = None
    is_fallback: bool = False  # The model that should run does not open, so this one runs.

    @property
    def folder(self) -> str | None:
        """The bundle's folder name; None for a bare file."""
        return self.source.name if self.source != self.path else None

    def load_command(
        self, settings: EngineSettings, *, tasks: tuple[TaskPrefix, ...] = (), state_dir: Path | None = None
    ) -> Load:
        """The command that makes a worker load all files of the model."""
        return Load(
            model_path=str(self.path),
            settings=settings,
            tasks=tasks,
            model_sha256=self.sha256,
            adapters=self.adapters,
            students=self.students,
            state_dir=None if state_dir is None else str(state_dir),
        )

    def answerer_of(self, task: str) -> str | None:
        """The small model of the bundle that was made for this task."""
        return next((student.name for student in self.students if task in student.tasks), None)

    def serves(self, task: str, *, has_own_model: bool, labels: Sequence[str], template: str) -> bool:
        """Whether the bundle has a model for a task with these labels and this template.

        TaskBase explains `has_own_model`. A trained model refuses other labels, and another template, with which fields
        mean something else.
        """

        def is_trained_for(label_sets: Mapping[str, tuple[str, ...]], templates: Mapping[str, str]) -> bool:
            return {*label_sets.get(task, ())} == {*labels} and templates.get(task, template) == template

        if any(task in student.tasks and is_trained_for(student.tasks, student.templates) for student in self.students):
            return True
        # A file of usual readings stands for a large model where there is none.
        is_large = not has_own_model and self.path.suffix != ".json"
        is_trained = task in self.held_out and is_trained_for(self.label_sets, self.templates)
        return is_large and (not self.reads_fields or is_trained)

    @property
    def weights_sha256(self) -> str:
        """The hashes of the model and its adapters, which decide all it computes."""
        return weights_sha256(self.sha256, self.adapters)

    def is_unchanged(self) -> bool:
        """Whether the files are those that were checked, by inode, size and times. Raises OSError."""
        return self.stamps is None or self.stamps == file_stamps(self.path, (*self.adapters, *self.students))

    def engine_state(self, state_dir: Path) -> Path:
        """The folder where the engine keeps what it measured and decoded with this model."""
        return engine_states(state_dir) / self.sha256[:16]

    @property
    def likely_worker_mb(self) -> float:
        """An estimate for its worker: the weights twice, because fast kernels copy them, plus context and process."""
        return 500.0 + 2.0 * self.size_bytes / 1e6

    def identity(self) -> dict[str, Any]:
        """Which model it is, as events say it."""
        return {"name": self.bundle_name, "folder": self.folder, "version": self.version, "sha256": self.sha256}

    def describe(self) -> dict[str, Any]:
        """The model's entry in `info`."""
        return {
            "name": self.key,
            "bundle": self.bundle_name,
            "folder": self.folder,
            "version": self.version,
            "sha256": self.sha256,
            "quantization": self.quantization,
            "size": self.size_bytes,
            "licence": self.licence,
            "context_length": self.context_length,
            "vocabulary": {"tokens": self.tokens, "of": self.all_tokens},
            "signature": self.signature,
            "signed_by": self.signed_by and self.signed_by[:SHOWN_OF_KEY],
            "expires": self.expires,
            "chat_template_sha256": self.chat_template_sha256,
            "adapters": [{"file": Path(adapter.path).name, "sha256": adapter.sha256} for adapter in self.adapters],
            "students": [{"name": student.name, "sha256": student.sha256} for student in self.students],
            "warning": self.warning,
        }


def engine_states(state_dir: Path) -> Path:
    """Holds one folder per model, named by its hash."""
    return state_dir / "models"


def file_stamps(model: Path, others: Iterable[Adapter | Student]) -> tuple[Stamp, ...]:
    """Raises OSError."""
    stats = [path.stat() for path in (model, *(Path(other.path) for other in others))]
    # Of the two times, only the time of modification can be set.
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
