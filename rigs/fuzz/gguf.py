"""Models with damaged headers. What passes the agent's check must not end llama.cpp."""

import os
import random
import struct
import tempfile
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

# What is forked must have one thread.
os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})

from edge_agent.core.pipe import EngineSettings, Failed, Load
from edge_agent.engine.llama import LoadError
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.gguf.header import TENSOR_TYPES, HeaderError
from edge_agent.gguf.model import read_model_facts
from rigs.fuzz.children import Outcome, try_in_child
from tests.convert.gguf_reading import Gguf, read_gguf
from tests.engine.runs import PLANS, TASK, answer_all, run
from tests.helpers.ggufs import ARRAY, BOOL, F32, I32, STRING, U32, gguf

CPU_S, MEMORY_BYTES = 30, 1 << 31
_SETTINGS = EngineSettings(context_tokens=256, max_active=2, threads=1, prefill_threads=1, batch_tokens=64)
_KINDS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": U32, "i32": I32, "f32": F32, "bool": BOOL, "string": STRING}
_KINDS |= {"10": 10, "11": 11, "12": 12}
_TYPES = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_INTEGERS = (0, 1, 2, 3, 7, 31, 33, 63, 64, 255, 512, 513, 600, 1024, 4096, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-6, 2.0, 1e4, 1e30, 3e38, -3e38, float("inf"), float("nan"))
_TEXTS = (
    *("", "llama", "bert", "t5", "rwkv", "gpt2", "no_vocab", "yarn", "longrope", "linear", "none", "whitespace"),
    *("gemma4", "sarvam-moe", "llama-bpe", "deepseek-r1-qwen", "default", "mpt", "chatglm-bpe", "kimi-k2", "qwen3"),
    *(" ", "a b", "\0", "<|im_start|>", "[EMPTY_3]", b"\xff\xfe", "▁", "x" * 70_000),
)
# Keys that llama.cpp reads where a model has them.
_OPTIONAL_KEYS = """
qwen2.attention.causal qwen2.attention.key_length qwen2.attention.value_length qwen2.attention.key_length_swa
qwen2.attention.sliding_window qwen2.classifier.output_labels qwen2.embedding_length_out qwen2.expert_count
qwen2.expert_group_count qwen2.expert_used_count qwen2.nextn_predict_layers qwen2.pooling_type
qwen2.rope.dimension_count qwen2.rope.scale_linear qwen2.rope.scaling.attn_factor qwen2.rope.scaling.factor
qwen2.rope.scaling.finetuned qwen2.rope.scaling.original_context_length qwen2.rope.scaling.type split.count
tokenizer.ggml.add_space_prefix tokenizer.ggml.eot_token_id tokenizer.ggml.fim_pad_token_id tokenizer.ggml.scores
tokenizer.ggml.suppress_tokens tokenizer.ggml.token_type_count
"""


def outcomes(numbers: range, model: Path) -> Iterator[tuple[int, Outcome]]:
    sound = read_gguf(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        for number in numbers:
            path.write_bytes(mutated(sound, random.Random(number)))
            yield number, try_in_child(partial(_loaded, path), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)


def mutated(sound: Gguf, dice: random.Random) -> bytes:
    """The file with one to three faults in its header."""
    values = {key: _typed(name, content) for key, (name, content) in sound.keys.items()}
    tensors = [(name, _TYPES[one.type], one.shape, bytes(one.data)) for name, one in sound.tensors.items()]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if dice.random() < 0.25:
            _change_tensor(tensors, dice)
        else:
            _change_value(values, dice)
    infos, data = [], bytearray()
    for name, number, shape, content in tensors:
        kind = TENSOR_TYPES[number]
        nbytes = min(prod(shape) // kind.elements * kind.nbytes, 1 << 24)
        infos.append((name, number, shape, len(data)))
        data += content[:nbytes].ljust(nbytes, b"\0")
        data += bytes(-len(data) % 32)
    header = bytearray(gguf(values, infos, b""))
    if dice.random() < 0.2:
        header[dice.randrange(len(header))] = dice.randrange(256)
    return bytes(header + data)


def _typed(name: str, content: Any) -> tuple[int, Any]:
    element = name.removeprefix("array of ")
    return (_KINDS[name], content) if element == name else (ARRAY, (_KINDS[element], content))


def _change_value(values: dict[str, tuple[int, Any]], dice: random.Random) -> None:
    key = dice.choice((*values, *values, *_OPTIONAL_KEYS.split()))
    kind, content = values.get(key, (dice.choice((U32, U32, F32, BOOL, STRING, ARRAY, 2)), (U32, [])))
    match dice.randrange(6):
        case 0:
            values.pop(key, None)
            return
        case 1:
            kind = dice.randrange(13)
            content = content if dice.random() < 0.5 else _odd(kind, content, dice)
        case _:
            content = _odd(kind, content, dice)
    values[key] = _packable(kind, content)


def _odd(kind: int, content: Any, dice: random.Random) -> Any:
    if kind != ARRAY:
        return dice.choice(_TEXTS if kind == STRING else _NUMBERS if kind in (F32, 12) else _INTEGERS)
    if not isinstance(content, tuple):
        content = (U32, [])
    element, items = content[0], list(content[1])
    at = dice.randrange(len(items) + 1)
    match dice.randrange(4):
        case 0:
            del items[at:]
        case 1:
            items += items[: dice.choice((1, 2, 1024))]
        case 2:
            element = dice.choice((0, U32, I32, F32, STRING))
        case _:
            items[at : at + 1] = [dice.choice((_odd(element, None, dice), *items[:1]))]
    return element, [_packable(element, item)[1] for item in items]


def _packable(kind: int, content: Any) -> tuple[int, Any]:
    """The value, or an empty one where its kind cannot hold it."""
    try:
        gguf({"k": (kind, content)}, [], b"")
    except (struct.error, OverflowError, TypeError, AttributeError, ValueError):
        return kind, "" if kind == STRING else (U32, []) if kind == ARRAY else 0
    return kind, content


def _change_tensor(tensors: list[tuple[str, int, tuple[int, ...], bytes]], dice: random.Random) -> None:
    at = dice.randrange(len(tensors))
    name, number, shape, content = tensors.pop(at)
    match dice.randrange(6):
        case 0:
            return
        case 1:
            number = dice.choice(list(TENSOR_TYPES))
        case 2:
            shape = shape[::-1]
        case 3:
            shape = (*shape, dice.choice((1, 2)))[:4]
        case 4:
            shape = (dice.choice((1, 2, 32, 256, 512, 2**33)), *shape[1:])
        case _:
            name = dice.choice((name + "s", name.replace("0", "9"), "output.weight", "rope_freqs.weight", "blk.0.x"))
    tensors.insert(at, (name, number, shape, content))


def _loaded(path: Path) -> Outcome:
    try:
        read_model_facts(path)
    except HeaderError as error:
        return "refused", str(error)
    try:
        engine = LlamaEngine(Load(model_path=str(path), settings=_SETTINGS, tasks=(TASK,)))
    except LoadError as error:
        return "not loaded", str(error)
    except Exception as error:  # noqa: BLE001 - the worker tells of any, and ends
        return "not opened", repr(error)
    events = answer_all(engine, *(run(at, "7 mm/s, hot", plan, max_tokens=40) for at, plan in enumerate(PLANS)))
    engine._llama.close()
    failed = [event.message for event in events if isinstance(event, Failed)]
    return ("failed to answer", failed[0]) if failed else ("answered", "")
