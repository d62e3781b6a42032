"""`edge-agent bench`: measures this board with a model and prints a table or JSON."""

import json
import platform
import signal
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_with_rates
from edge_agent.core.clock import timestamp
from edge_agent.core.config import ModelConfig
from edge_agent.core.environment import cores
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import EngineSettings, is_echo
from edge_agent.core.terminal import UNKNOWN, StatusLine, aligned, fail
from edge_agent.core.wording import printable
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.record import in_force
from edge_agent.models.trust import read_trust
from edge_agent.tools.bench.tasks import MIN_ANSWERS, Say, measure_tasks
from edge_agent.worker.client import WorkerError

# What the engine uses, as configured or as it found best.
_SETTINGS = ("context_tokens", "max_active", "threads", "prefill_threads", "batch_tokens")
COLUMNS = 80
Document = dict[str, Any]


def bench(config_path: Path, model_path: Path | None, *, is_quick: bool, as_json: bool) -> int:
    """Prints what was measured; returns 1 if there is nothing to measure. Raises ConfigError.

    A model path, of a bundle or a .gguf, is measured with the default settings instead of the configuration's model.
    """
    # Signals end it as Ctrl-C does, with its worker and its folder. nohup's ignored signals stay ignored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    progress = StatusLine()
    try:
        if model_path is None:
            config = load_config(config_path)
            path = in_force(config)
            if path != config.models["default"].path:
                progress.say(f"{path} is measured, because since a model-switch it runs instead of models.default.path")
            model = config.models["default"].model_copy(update={"path": path})
            settings, root = config.engine, config.board.root
        else:
            model, settings, root = ModelConfig.model_construct(path=model_path), EngineSettings(), Path("/")
        document = _measure(Board(root, Path("/")), model, settings, is_quick=is_quick, say=progress.say)
        progress.clear()
    except (WorkerError, ModelError, OSError) as error:
        progress.clear()
        # With --model, the model is not a key of a configuration.
        return fail(str(error) if model_path is None else str(error).removeprefix("models.default.path: "))
    except KeyboardInterrupt:
        progress.clear()
        return fail("interrupted")
    print(json.dumps(document, indent=2, ensure_ascii=False) if as_json else table(document))
    return 0


def _measure(board: Board, configured: ModelConfig, settings: EngineSettings, *, is_quick: bool, say: Say) -> Document:
    """Every figure, with its unit in its name; None if it was not measured.

    Raises WorkerError, ModelError, OSError.
    """
    path = configured.path
    if is_echo(path):
        raise ModelError(f"{path} is not a model, so there is nothing to measure; give one with --model")
    before = read_with_rates(board)
    say("checking the model")
    model = open_model("default", path, read_trust(configured), configured.chat_templates)
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        load = model.load_command(settings, state_dir=Path(folder))
        tasks, worker, ready = measure_tasks(load, say, is_quick=is_quick)
    document: Document = {
        "version": __version__,
        "ts": timestamp(),
        "quick": is_quick,
        "board": {
            "name": board.model() or platform.machine(),
            "machine": platform.machine(),
            "cores": cores(),
            "cpu_variant": ready.cpu_variant,
            "load1": before.cpu.load1,
            "soc_before_c": before.thermal.soc_c,
            "soc_after_c": read_with_rates(board).thermal.soc_c,
        },
        "model": model.describe(),
        "engine": {
            "configured": settings.model_dump(),
            **{name: getattr(ready, name) for name in _SETTINGS},
        },
        "tasks": tasks,
        "worker": worker,
    }
    return {**document, "summary": summary(document)}


def summary(document: Document) -> str:
    clients = max(task["clients"] for task in document["tasks"])
    first, *others = [task for task in document["tasks"] if task["clients"] == clients]
    also = ", ".join(f"{_rate(task['requests_per_s'])} {task['task']}" for task in others)
    alone = [task for task in document["tasks"] if task["clients"] == 1][-1]
    prefill, decode = (_number(alone[f"{name}_tokens_per_s"]) for name in ("prefill", "decode"))
    return (
        f"This board answers {_rate(first['requests_per_s'])} {first['task']} requests/s with {clients} "
        f"client{'s' if clients > 1 else ''} ({also}); alone, one request is read at {prefill} tokens/s and "
        f"answered at {decode}."
    )


def table(document: Document) -> str:
    """The figures for people, in at most COLUMNS columns, with the summary first, then its parts."""
    summed_up = textwrap.wrap(document["summary"], COLUMNS)
    return "\n".join([*summed_up, "", *_facts(document), "", *_task_lines(document["tasks"])])


def _facts(document: Document) -> Iterator[str]:
    board, model, engine, worker = (document[name] for name in ("board", "model", "engine", "worker"))
    heat = ""
    if board["soc_before_c"] is not None and board["soc_after_c"] is not None:
        heat = f", {board['soc_before_c']:.0f} °C before, {board['soc_after_c']:.0f} °C after"
    anonymous, repacked, file = (_number(worker[f"{name}_mib"]) for name in ("anonymous", "repacked", "file"))
    facts = {
        "board": f"{board['name']}, {board['cores']} cores{heat}",
        "model": f"{model['bundle']} {model['quantization']}, {model['size'] / 2**20:.0f} MiB",
        "memory": f"{anonymous} MiB anonymous ({repacked} MiB of it weights in fast layout), {file} MiB of the file",
        "engine": f"threads: {engine['threads']}, for prompts {engine['prefill_threads']}, which it reads in steps of "
        f"{engine['batch_tokens']} tokens",
        "start": f"{worker['first_start_s']:.1f} s the first time, {worker['later_start_s']:.1f} s later",
    }
    if board["load1"] is not None and board["load1"] > board["cores"] / 2:
        facts["note"] = f"the board was busy before (load {board['load1']:.1f}); it is faster when idle"
    for name, text in facts.items():
        indent = " " * 8
        yield from textwrap.wrap(printable(text), COLUMNS, initial_indent=f"{name:8}", subsequent_indent=indent)


def _task_lines(tasks: Sequence[Document]) -> Iterator[str]:
    head = ("Tasks", "clients", "req/s", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "cached", "asked")
    rows = [
        (
            task["task"],
            str(task["clients"]),
            _rate(task["requests_per_s"]),
            *(_number(task[f"p{percent}_ms"]) for percent in MIN_ANSWERS),
            _rate(task["completion_tokens_per_s"]) if task["completion_tokens"] else UNKNOWN,
            UNKNOWN if task["cached_share"] is None else f"{task['cached_share']:.0%}",
            str(task["requests"]),
        )
        for task in tasks
    ]
    yield from aligned([head, *rows])
    if any(task["p99_ms"] is None for task in tasks):
        needs = ", ".join(f"p{percent} needs {count}" for percent, count in MIN_ANSWERS.items())
        yield f"A percentile of too few answers is {UNKNOWN}: {needs}."
    for task in tasks:
        if task["failed"]:
            what = f"{task['task']}, {task['clients']} clients: {task['failed']} of {task['requests']} failed: "
            yield from textwrap.wrap(what + printable(task["failure"]), COLUMNS)


def _rate(value: float) -> str:
    """Shows three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
