"""Damaged checkpoints and adapters: `edge-convert` refuses them in one line, or makes a bundle that the agent opens.

`python -m rigs.fuzz.safetensors --count 1000`: exit code 1 if it did anything else.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# What is forked must have one thread.
os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})


from convert.cli import main as edge_convert
from edge_agent.core.model import ModelError
from edge_agent.core.protocol import EngineSettings, Load
from edge_agent.engine.llama import LoadError
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.prompt.chat_template import fault_of
from edge_agent.models.bundle import open_model
from rigs.fuzz.checkpoints import Sound, make_sound, write_damaged
from rigs.fuzz.children import FAILED, Outcome, drive, tried
from tests.convert.checkpoints import TEMPLATE
from tests.engine.runs import TASK, answer_all, run

CPU_S, MEMORY_BYTES = 10, 1 << 30
_SETTINGS = EngineSettings(context_tokens=256, max_active=1, threads=1, prefill_threads=1, batch_tokens=64)
_FILES = (".json", ".safetensors", ".md", ".jinja", "checkpoint", "lora", "tensor ", "llama.cpp")
_MAX_LINE = 1000
_TOO_LARGE = "; use bf16 instead"


def outcomes(count: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """Of each damage: its number, what became of it, and why."""
    sound = make_sound()
    # Remembered from here on: each template is tried in a process of its own.
    fault_of(TEMPLATE)
    for number in range(first, first + count):
        yield number, _outcome(sound, number)


def _outcome(sound: Sound, number: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        words = write_damaged(sound, number, Path(folder))
        before = set(Path(folder).iterdir())
        outcome, why = tried(lambda: _converted(words), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
        why = why.replace(folder, "…")
        if outcome == "refused" and (left := set(Path(folder).iterdir()) - before):
            return FAILED, f"left behind: {left}"
        return outcome, why


def _converted(words: list[str]) -> Outcome:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = edge_convert(words)
    told = errors.getvalue()
    if code == 0:
        return _opened(Path(words[2]))
    if code not in (65, 1):
        return FAILED, f"exit code {code}: {told}"
    lines = [line for line in told.splitlines() if not line.startswith("edge-convert: warning: ")]
    if len(lines) != 1 or not lines[0].isprintable() or len(lines[0]) > _MAX_LINE:
        return FAILED, f"more than one printable line: {told!r}"
    if not any(name in lines[0] for name in _FILES):
        return FAILED, f"names no file and no tensor: {lines[0]}"
    if code == 65:
        return "refused", lines[0]
    # Weights that another type of number can hold.
    return ("of another type" if _TOO_LARGE in lines[0] else FAILED), lines[0]


def _opened(bundle: Path) -> Outcome:
    """The agent's view of what was made."""
    try:
        model = open_model("default", bundle)
        load = Load(model_path=str(model.path), adapters=model.adapters, settings=_SETTINGS, tasks=(TASK,))
        engine = LlamaEngine(load, is_measured=False)
    except (ModelError, LoadError) as error:
        return FAILED, f"converted, but not opened: {error}"
    try:
        answer_all(engine, run(0, "7 mm/s, hot", max_tokens=2))
    finally:
        engine.close()
    return "converted", ""


if __name__ == "__main__":
    sys.exit(drive("safetensors", __doc__, outcomes))
