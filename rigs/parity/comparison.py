"""What differs between two GGUF files."""

from dataclasses import dataclass, field
from typing import Any

from tests.convert.gguf_reading import Gguf

# Keys where the difference is intended, and why. Any other difference is a fault.
_GUESSED = "upstream guesses it from the folder's name; not reproducible, so not written"
_DEFAULT_ONLY = "the agent uses the default chat template only"
EXPLAINED = {f"general.{name}": _GUESSED for name in ("basename", "finetune", "version", "organization")} | {
    "general.name": "upstream takes it from the folder's name, ours from --name or the checkpoint",
    "general.size_label": "upstream guesses it from the folder's name where it can, ours is always counted",
    "tokenizer.chat_templates": _DEFAULT_ONLY,
    "tokenizer.chat_template.tool_use": _DEFAULT_ONLY,
}


@dataclass(slots=True)
class Comparison:
    """Counts of what was compared, and the differences found. `explained` ones are no fault."""

    tensors: int = 0
    tensor_bytes: int = 0
    keys: int = 0
    differences: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)


def compare(ours: Gguf, theirs: Gguf, *, with_tensors: bool = True) -> Comparison:
    """Compares every key with its type and value and, unless left out, every tensor's type, shape and bytes."""
    result = Comparison(keys=len(ours.keys.keys() | theirs.keys.keys()))
    for key in sorted(ours.keys.keys() | theirs.keys.keys()):
        mine, other = ours.keys.get(key), theirs.keys.get(key)
        if mine == other:
            continue
        text = f"{key}: ours {_shown(mine)}, upstream's {_shown(other)}"
        if key in EXPLAINED:
            result.explained.append(f"{text} ({EXPLAINED[key]})")
        else:
            result.differences.append(text)
    if not with_tensors:
        return result
    result.tensors = len(ours.tensors.keys() | theirs.tensors.keys())
    for name in sorted(ours.tensors.keys() | theirs.tensors.keys()):
        mine_tensor, other_tensor = ours.tensors.get(name), theirs.tensors.get(name)
        if mine_tensor is None or other_tensor is None:
            result.differences.append(f"{name}: only in {'upstream' if mine_tensor is None else 'our'} file")
        elif (mine_tensor.type, mine_tensor.shape) != (other_tensor.type, other_tensor.shape):
            mine_form, other_form = (f"{tensor.type} {tensor.shape}" for tensor in (mine_tensor, other_tensor))
            result.differences.append(f"{name}: ours {mine_form}, upstream's {other_form}")
        elif mine_tensor.data != other_tensor.data:
            result.differences.append(f"{name}: {mine_tensor.type} bytes differ")
        else:
            result.tensor_bytes += len(mine_tensor.data)
    return result


def _shown(entry: tuple[str, Any] | None) -> str:
    if entry is None:
        return "absent"
    kind, value = entry
    if isinstance(value, list):
        return f"{kind} of {len(value)}, hash {hash(tuple(value)) & 0xFFFF:04x}"
    return f"{kind} {value!r:.60}"
