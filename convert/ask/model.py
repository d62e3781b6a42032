"""A model that answers requests, in the agent's own worker process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edge_agent.core.protocol import Adapter, EngineSettings, Load, TaskPrefix
from edge_agent.worker.client import Worker, WorkerError, started

from ..errors import ConvertError, printable
from ..read.model_facts import model_facts
from ..write.manifest import sha256_of

# The same on every machine: in long contexts flash attention cuts its work by the number of threads, on which then the
# last bits of an answer depend.
_SETTINGS = EngineSettings(max_active=1, threads=2, prefill_threads=2)


def load_of(model: Path, adapters: Iterable[Path] = ()) -> Load:
    """What the worker is told of a GGUF file. Nothing is kept, and no step is measured: each run is the same."""
    told = tuple(Adapter(path=str(path), sha256=sha256_of(path)) for path in adapters)
    return Load(model_path=str(model), settings=_SETTINGS, adapters=told)


@contextmanager
def opened(model: Path, prefixes: Iterable[TaskPrefix], adapters: Iterable[Path] = ()) -> Iterator[Worker]:
    """A worker that answers with these adapters, to be asked one request at a time.

    Raises ConvertError if the model cannot be run.
    """
    model_facts(model)
    load = replace(load_of(model, adapters), tasks=tuple(prefixes))
    try:
        with started(load) as worker:
            worker.ready()
            yield worker
    except WorkerError as error:
        raise ConvertError(f"{printable(str(model))} cannot be run: {printable(str(error), limit=1000)}") from error
