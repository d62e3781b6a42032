"""A model with its adapters, and the agent's own worker process in which it answers requests."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..agent import (
    ADAPTER_FILE,
    MODEL_FILE,
    REPAIR_FILE,
    Adapter,
    EngineSettings,
    Load,
    TaskPrefix,
    WorkerClient,
    WorkerError,
    model_facts,
    sha256_of,
    started_worker,
)
from ..errors import ConvertError, escaped
from ..measure.cache import write_reference
from ..progress import OnProgress
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from ..read.vocabulary import cut_to_match

# The same on every machine, because in long contexts the last bits of an answer depend on the number of threads.
_SETTINGS = EngineSettings(max_active=1, threads=2, prefill_threads=2)


@dataclass(frozen=True)
class AdaptedModel:
    """A GGUF model and the adapters that are applied to it."""

    path: Path
    adapters: Sequence[Path] = ()

    @classmethod
    def from_path(cls, path: Path) -> "AdaptedModel":
        """The model of a bundle with its adapters, or a .gguf as it is. Raises ConvertError for anything else."""
        if path.is_file():
            return cls(path)
        if not is_model(path):
            raise ConvertError(f"{escaped(str(path))}: neither a bundle with {MODEL_FILE} nor a .gguf file")
        adapters = (path / ADAPTER_FILE, path / REPAIR_FILE)
        return cls(path / MODEL_FILE, [adapter for adapter in adapters if adapter.is_file()])

    @property
    def user_adapters(self) -> list[Path]:
        """The adapters that the unquantized model needs for a comparison: the user's, and no repair."""
        return [path for path in self.adapters if path.name == ADAPTER_FILE]

    @cached_property
    def sha256(self) -> str:
        return sha256_of(self.path)

    def cached(self, work: Path, content_sha256: str, suffix: str) -> Path:
        """The file in the cache for results of this model, with its adapters, on this content."""
        hashes = (self.sha256, *map(sha256_of, self.adapters), content_sha256)
        return work / f"{'-'.join(sha256[:16] for sha256 in hashes)}{suffix}"


def adapters_of(model: AdaptedModel) -> tuple[Adapter, ...]:
    return tuple(Adapter(path=str(path), sha256=sha256_of(path)) for path in model.adapters)


@contextmanager
def open_worker(model: AdaptedModel, prefixes: Iterable[TaskPrefix], *, at_once: int = 1) -> Iterator[WorkerClient]:
    """A worker that caches and measures nothing. If asked one at a time, equal requests get equal answers.

    Raises ConvertError.
    """
    model_facts(model.path)
    settings = _SETTINGS.model_copy(update={"max_active": at_once})
    load = Load(model_path=str(model.path), settings=settings, adapters=adapters_of(model), tasks=tuple(prefixes))
    try:
        with started_worker(load) as worker:
            worker.ready()
            yield worker
    except WorkerError as error:
        message = escaped(str(error), limit=1000)
        raise ConvertError(f"{escaped(str(model.path))} cannot run: {message}") from error


def is_model(path: Path) -> bool:
    """Whether this is a bundle or a .gguf, and no checkpoint."""
    return path.is_file() or (path / MODEL_FILE).is_file()


def model_or_reference(path: Path, work: Path, progress: OnProgress, *, match: Path | None = None) -> AdaptedModel:
    """A bundle or .gguf as it is; a checkpoint as the unquantized model in `work`, with the tokens of `match`."""
    if is_model(path):
        return AdaptedModel.from_path(path)
    with Checkpoint(path) as checkpoint:
        model = read_model(checkpoint)
        return AdaptedModel(write_reference(checkpoint, cut_to_match(model, match) if match else model, work, progress))
