"""Damaged checkpoints and adapters: `edge-convert` refuses them in one line, or makes a bundle that the agent opens."""

import contextlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

# What is forked must have one thread.
os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})

from convert.cli import main as edge_convert
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import EngineSettings, Load
from edge_agent.engine.llama import LoadError
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.prompt.chat_template import chat_template_fault
from edge_agent.models.bundle import open_model
from rigs.fuzz.children import FAILED, Outcome, try_in_child
from rigs.fuzz.damage import damage_file, damage_json, json_text, plain_files
from tests.convert.adapters import AdapterFiles, make_adapter
from tests.convert.checkpoints import TEMPLATE, CheckpointFiles, make_checkpoint
from tests.engine.runs import TASK, answer_all, run

CPU_S, MEMORY_BYTES = 10, 1 << 30
SETTINGS = EngineSettings(context_tokens=256, max_active=1, threads=1, prefill_threads=1, batch_tokens=64)
_TYPES = ("bf16", "f16", "q8_0", "q4_0", "q4_k_m", "iq4_nl")
_PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch /pwned \x85R."
_GENERATION = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [264, 262]}
_MORE = {"generation_config.json": json.dumps(_GENERATION), "README.md": "---\nlicense: apache-2.0\n---\n# A model\n"}
_DTYPES = ("BF16", "F16", "F32", "F64", "I8", "BOOL", "F8_E4M3", "", None, 16)
_LENGTHS = (0, 1, 7, 10**8, 10**8 + 1, 2**31, 2**32, 2**63, 2**64 - 1)
# Infinities, NaN, the largest number and the smallest, as BF16.
_WEIGHTS = (b"\x80\x7f", b"\xc0\x7f", b"\x80\xff", b"\x7f\x7f", b"\1\0")
_FILES = (".json", ".safetensors", ".md", ".jinja", "checkpoint", "lora", "tensor ", "llama.cpp")
_MAX_LINE = 1000
_TOO_LARGE = "; use bf16 instead"


def make_sound() -> tuple[tuple[CheckpointFiles, CheckpointFiles], AdapterFiles]:
    """A checkpoint in one file and in two, and an adapter."""
    sizes: dict[str, Any] = {"layers": 1, "hidden": 64, "feed_forward": 128, "heads": 2, "heads_kv": 1, "tied": False}
    plain = make_checkpoint(**sizes)
    plain.more = _MORE
    return (plain, make_checkpoint(**sizes, shards=2)), make_adapter(plain.tensors)


def make_bundle(folder: Path, kind: str, *words: str) -> Path:
    """That checkpoint with its adapter, converted in another process, as what is forked here must have one thread."""
    (plain, _), adapter = make_sound()
    checkpoint, lora, bundle = plain.write(folder / "ck"), adapter.write(folder / "lora"), folder / kind
    command = [sys.executable, "-m", "edge_convert", str(checkpoint), "--out", str(bundle), "--type", kind]
    subprocess.run([*command, "--lora", str(lora), "--no-canaries", *words], check=True, capture_output=True)
    return bundle


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    checkpoints, adapter = make_sound()
    # Remembered from here on, because each template is tried in a process of its own.
    chat_template_fault(TEMPLATE)
    for number in numbers:
        dice = random.Random(number)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = [dice.choice(checkpoints).write(folder / "checkpoint")]
            words = [str(places[0]), "--out", str(folder / "bundle"), "--type", dice.choice(_TYPES), "--no-canaries"]
            if dice.random() < 0.35:
                places.append(adapter.write(folder / "lora"))
                words += ["--lora", str(places[1])]
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                _damage(places[-1] if dice.random() < 0.7 else places[0], dice)
            before = set(folder.iterdir())
            outcome, why = try_in_child(partial(_converted, words), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
            if outcome == "refused" and (left := set(folder.iterdir()) - before):
                outcome, why = FAILED, f"left behind: {left}"
            yield number, (outcome, why.replace(name, "…"))


def _damage(place: Path, dice: random.Random) -> None:
    if dice.random() < 0.05:
        (place / dice.choice(("pytorch_model.bin", "model-00009-of-00009.safetensors"))).write_bytes(_PICKLE)
    if not (files := plain_files(place)):
        return
    path = dice.choice(files)
    if path.suffix == ".safetensors" and dice.random() < 0.8:
        data = path.read_bytes()
        with contextlib.suppress(struct.error, ValueError, RecursionError, OverflowError):
            path.write_bytes(_damaged_weights(data, dice))
    else:
        damage_file(path, dice)


def _damaged_weights(data: bytes, dice: random.Random) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    header, weights = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    match dice.randrange(4):
        case 0:
            return struct.pack("<Q", dice.choice((*_LENGTHS, len(data), len(data) - 8, len(data) - 7))) + data[8:]
        case 1 if len(weights) > 2:
            for _ in range(dice.choice((1, 5, 500))):
                at = 2 * dice.randrange(len(weights) // 2)
                weights[at : at + 2] = dice.choice((*_WEIGHTS, dice.randbytes(2)))
        case 2 if isinstance(header, dict) and header and isinstance(entry := dice.choice(list(header.values())), dict):
            entry["dtype"] = dice.choice(_DTYPES)
        case _:
            header = damage_json(header, dice)
    text = json_text(header, dice)
    return struct.pack("<Q", len(text)) + text + weights


def _converted(words: list[str]) -> Outcome:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = edge_convert(words)
    said = errors.getvalue()
    if code == 0:
        return _opened(Path(words[2]))
    if code not in (65, 1):
        return FAILED, f"exit code {code}: {said}"
    lines = [line for line in said.splitlines() if not line.startswith("edge-convert: warning: ")]
    if len(lines) != 1 or not lines[0].isprintable() or len(lines[0]) > _MAX_LINE:
        return FAILED, f"more than one printable line: {said!r}"
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
        load = Load(model_path=str(model.path), adapters=model.adapters, settings=SETTINGS, tasks=(TASK,))
        engine = LlamaEngine(load)
    except (ModelError, LoadError) as error:
        return FAILED, f"converted, but not opened: {error}"
    answer_all(engine, run(0, "7 mm/s, hot", max_tokens=2))
    engine._llama.close()
    return "converted", ""
