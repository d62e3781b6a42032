"""Whether the model loads as `run` loads it, in what memory, and with which kernels."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence

from edge_agent.board.board import Board
from edge_agent.board.identity import machine
from edge_agent.board.process import resident_mb
from edge_agent.core.config import Config
from edge_agent.core.errors import how_ended, last_words
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.model import Model
from edge_agent.core.protocol import EngineSettings, Event, Load, LoadFailed, Loading, Ready
from edge_agent.requests.renderer import Renderer, RendererError
from edge_agent.tools.doctor.check import Check, Verdict, counted
from edge_agent.worker.process import EngineProcess, WorkerExited

# Feature of the core -> how llama.cpp's system info names it when the library was built to use it.
KERNEL_FEATURES = {
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "avx2": "AVX2",
    "avx512_vnni": "AVX512_VNNI",
}


def engine(board: Board, config: Config, model: Model, available_mb: float | None) -> Iterator[Check]:
    """Loads the model in a worker, as `run` does. available_mb: memory, before that."""
    events: queue.Queue[Event | WorkerExited] = queue.Queue()
    settings = EngineSettings(**config.engine.model_dump())
    worker = EngineProcess(Load(model_path=str(model.path), settings=settings, adapters=model.adapters), events.put)
    worker_mb = None
    worker.start()
    try:
        while isinstance(event := events.get(timeout=LOAD_SILENCE_S), Loading):
            pass
        if isinstance(event, Ready):
            worker_mb = resident_mb(event.pid)
    except queue.Empty:
        event = LoadFailed(message=f"it did not get on for {LOAD_SILENCE_S:.0f} s")
    finally:
        worker.stop(5.0)
    yield memory(available_mb, worker_mb, renderer_mb(config))
    if not isinstance(event, Ready):
        match event:
            case LoadFailed(message=why):
                pass
            case WorkerExited():
                why = f"{how_ended(event.returncode)} {last_words(event.log_tail)}".strip()
            case _:
                why = str(event)
        advice = "check the model with `edge-convert verify`, and the memory that is free"
        yield Check(name="engine", verdict=Verdict.FAILED, found=f"the model does not load: {why}", advice=advice)
        return
    yield Check(
        name="engine",
        verdict=Verdict.GOOD,
        found=f"loaded in {event.load_s:.1f} s, {event.context_tokens} tokens of context, "
        f"{counted(event.threads, 'thread')}"
        + (" (the agent measures how many are best)" if config.engine.threads is None else ""),
    )
    yield kernels(board.cpu_features(), event.cpu_variant)
    repacked = event.repacked_mib
    yield Check(
        name="repack",
        verdict=Verdict.SKIPPED if repacked is None else Verdict.WARNING if repacked == 0 else Verdict.GOOD,
        found="the library does not say" if repacked is None else f"{repacked:.1f} MiB of weights in fast layout",
        advice="none of these weights has a fast layout here; on ARM with dotprod q4_0, q8_0 and iq4_nl have one"
        if repacked == 0
        else None,
    )


def kernels(cpu_features: Sequence[str], cpu_variant: str) -> Check:
    words = cpu_variant.split()
    unused = [name for name, word in KERNEL_FEATURES.items() if name in cpu_features and word not in words]
    if not unused:
        return Check(name="kernels", verdict=Verdict.GOOD, found=cpu_variant)
    return Check(
        name="kernels",
        verdict=Verdict.FAILED,
        found=f"the cores have {', '.join(unused)}, but llama.cpp runs kernels that do without: {cpu_variant}",
        advice=f"install the llama-cpp-python of `make wheelhouse ARCH={machine()}`, which has all kernel variants",
    )


def renderer_mb(config: Config) -> float | None:
    """Of the process that renders the templates of tasks; 0 where none is needed."""
    renderer = Renderer()
    try:
        renderer.prepare(task.template for task in config.tasks.values())
        pid = renderer.pid
        if pid is None:
            return 0.0
        renderer.render("{{ input }}.", "")  # it has been loaded
        return resident_mb(pid)
    except (OSError, RendererError):
        return None
    finally:
        renderer.stop()


def memory(available_mb: float | None, worker_mb: float | None, renderer_mb: float | None = 0.0) -> Check:
    """Measured, not estimated: what is held depends on model and context. This process stands for the agent."""
    own_mb = resident_mb()
    if available_mb is None:
        return Check(name="memory", verdict=Verdict.SKIPPED, found="/proc/meminfo does not say what is available")
    if worker_mb is None or own_mb is None or renderer_mb is None:
        return Check(name="memory", verdict=Verdict.SKIPPED, found=f"{available_mb:.0f} MB available")
    held_mb = worker_mb + own_mb + renderer_mb
    templates = f", what renders templates {renderer_mb:.0f} MB" if renderer_mb else ""
    found = (
        f"{available_mb:.0f} MB available before loading, {held_mb:.0f} MB resident after it: "
        f"worker {worker_mb:.0f} MB with the mapped pages of the weights, agent about {own_mb:.0f} MB{templates}"
    )
    if available_mb < held_mb:
        advice = "stop other services, choose a smaller quantization or a board with more memory"
        return Check(name="memory", verdict=Verdict.WARNING, found=found, advice=advice)
    return Check(name="memory", verdict=Verdict.GOOD, found=found)
