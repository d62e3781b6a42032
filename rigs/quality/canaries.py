"""Canaries hold with other kernels and fail on damaged models: `python -m rigs.quality.canaries CHECKPOINT`.

The canaries of one bundle are asked again with other numbers of threads, step widths and kernels, each of which rounds
differently, as another machine does. Bundles of damaged copies of the checkpoint are asked too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert.cli import main as convert
from convert.evaluate.canaries import differences
from convert.evaluate.worker import Adapted
from edge_agent.core.environment import library_environment
from edge_agent.core.protocol import EngineSettings, Failed, Finished, Load, Refused, Run
from edge_agent.models.canaries import FILE, Canaries, decode
from edge_agent.requests.tasks import Task
from rigs.machine import checkpoint_path
from tests.convert.damage import DAMAGES, SUBTLE_DAMAGES, damaged

_ONE = {"max_active": 1, "threads": 2, "prefill_threads": 2}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # Settings of the engine, parameters of the model, parameters of the context.
    "as recorded": ({}, {}, {}),
    "1 thread": ({"threads": 1, "prefill_threads": 1}, {}, {}),
    "steps of 32 rows": ({"batch_tokens": 32}, {}, {}),
    "no repacked weights": ({}, {"use_extra_bufts": False}, {}),
    "no flash attention": ({}, {}, {"flash_attn_type": 0}),
    "neither, steps of 48 rows": ({"batch_tokens": 48}, {"use_extra_bufts": False}, {"flash_attn_type": 0}),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.canaries", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--type", default="q4_0")
    given = parser.parse_args()
    # Before llama.cpp is loaded into this process.
    os.environ.update(library_environment())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _convert(given.checkpoint, given.type, folder / "own")
        canaries = decode((folder / "own" / FILE).read_bytes())
        print(f"{given.type}: {len(canaries.canaries)} canaries", flush=True)
        for variant, parameters in VARIANTS.items():
            events = list(_answers(folder / "own" / "model.gguf", canaries, *parameters))
            found = [canaries.difference(index, event) for index, event in enumerate(events)]
            largest = max(_score_errors(canaries, events), default=0.0)
            _print(variant, [text for text in found if text], f"scores off by {largest:.3f} at most")
        for kind in ("q8_0", "iq4_nl"):
            _check(given.checkpoint, kind, folder, f"the same model as {kind}")
        for damage, function in (DAMAGES | SUBTLE_DAMAGES).items():
            _check(damaged(given.checkpoint, folder / "damaged", function), given.type, folder, damage)
            shutil.rmtree(folder / "damaged")
    return 0


def _check(checkpoint: Path, kind: str, folder: Path, what: str) -> None:
    _convert(checkpoint, kind, folder / "other", "--no-canaries", "--force")
    shutil.copy(folder / "own" / FILE, folder / "other")
    model = Adapted(folder / "other" / "model.gguf")
    _print(what, differences(folder / "other", model, lambda _what, _share: None))
    (folder / "other" / FILE).unlink()


def _convert(checkpoint: Path, kind: str, target: Path, *words: str) -> None:
    if convert([str(checkpoint), "--type", kind, "--out", str(target), "--json", *words]):
        raise SystemExit(1)


def _print(what: str, found: list[str], more: str = "") -> None:
    print(f"{what}: {len(found)} differ{more and ', '}{more}", *found, sep="\n    ", flush=True)


def _score_errors(canaries: Canaries, events: list[Finished | Refused | Failed]) -> Iterator[float]:
    for canary, event in zip(canaries.canaries, events, strict=True):
        if canary.answer.scores and isinstance(event, Finished) and event.scores:
            yield max(abs(event.scores[label] - score) for label, score in canary.answer.scores.items())


def _answers(
    model: Path, canaries: Canaries, settings: dict[str, Any], of_model: dict[str, Any], of_context: dict[str, Any]
) -> Iterator[Finished | Refused | Failed]:
    """In this process: the worker has no settings for kernels."""
    import llama_cpp  # noqa: PLC0415 - reads the environment

    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415

    defaults = {
        "llama_model_default_params": (llama_cpp.llama_model_default_params, of_model),
        "llama_context_default_params": (llama_cpp.llama_context_default_params, of_context),
    }
    for name, (function, changes) in defaults.items():
        setattr(llama_cpp, name, lambda function=function, changes=changes: _changed(function(), changes))
    tasks = tuple(Task(name, config).prefix() for name, config in canaries.tasks.items())
    load = Load(model_path=str(model), settings=EngineSettings(**_ONE | settings), tasks=tasks)
    engine = LlamaEngine(load, is_measured=False)
    try:
        for index in range(len(canaries.canaries)):
            yield _ask(engine, canaries.run(index, index))
    finally:
        engine.close()
        for name, (function, _) in defaults.items():
            setattr(llama_cpp, name, function)


def _changed(parameters: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        setattr(parameters, name, value)
    return parameters


def _ask(engine: Any, run: Run) -> Finished | Refused | Failed:
    events = [engine.add(run)]
    while not (found := [event for event in events if isinstance(event, Finished | Refused | Failed)]):
        events = engine.step()
    return found[0]


if __name__ == "__main__":
    raise SystemExit(main())
