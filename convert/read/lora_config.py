"""adapter_config.json of a PEFT adapter, checked and reduced to ranks and scales."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, TypeVar

from ..errors import CheckpointError, printable

FILE = "adapter_config.json"
_MAX_RANK = 1 << 14
_MIN_ALPHA, _MAX_ALPHA = 1e-6, 1e6
# With any of these set it is not W + scale · B·A of the base model's own matrices.
_MUST_BE_OFF = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
# The others (PiSSA, OLoRA, LoftQ, CorDA) change the base model's weights when training begins.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
_MODULE = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """rank, alpha: of the modules without a pattern; ranks, alphas: by pattern, the first match counts.

    targets: the ends of module names; None = a pattern, which is not checked. base: the trainer's name of its base.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: tuple[str, ...] | None
    base: str | None
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    @property
    def file_alpha(self) -> float:
        """The alpha for llama.cpp, whose scale is always alpha / rank."""
        return self.alpha * sqrt(self.rank) if self.is_rank_stabilized else self.alpha

    def rank_of(self, module: str) -> int:
        return _of_pattern(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        rank, alpha = self.rank_of(module), _of_pattern(self.alphas, module, self.alpha)
        return alpha / sqrt(rank) if self.is_rank_stabilized else alpha / rank


def parse_lora_config(raw: dict[str, Any]) -> LoraConfig:
    """Check and reduce adapter_config.json; CheckpointError names the field, its value and what is allowed."""
    if raw.get("peft_type") != "LORA":
        raise _wrong("peft_type", raw.get("peft_type"), "LORA")
    if raw.get("bias", "none") != "none":
        raise _wrong("bias", raw["bias"], "none (llama.cpp adapts matrices only)")
    for name in _MUST_BE_OFF:
        if raw.get(name):
            raise _wrong(name, raw[name], "false, null or empty: plain LoRA of matrices is supported only")
    if raw.get("init_lora_weights") not in _PLAIN_STARTS:
        allowed = "true, false, gaussian, orthogonal or eva: others change the base model's weights"
        raise _wrong("init_lora_weights", raw["init_lora_weights"], allowed)
    base = raw.get("base_model_name_or_path")
    return LoraConfig(
        rank=_rank(raw.get("r"), "r"),
        alpha=_alpha(raw.get("lora_alpha"), "lora_alpha"),
        is_rank_stabilized=_flag(raw, "use_rslora"),
        targets=_targets(raw.get("target_modules")),
        base=base if isinstance(base, str) else None,
        ranks=_patterns(raw, "rank_pattern", _rank),
        alphas=_patterns(raw, "alpha_pattern", _alpha),
    )


def _of_pattern(patterns: dict[str, Value], module: str, default: Value) -> Value:
    """Looked up as PEFT does, `re.match(rf"(.*\\.)?({pattern})$", module)`, for patterns that are plain names."""
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^")
        if module == name or (name == pattern and module.endswith(f".{name}")):
            return value
    return default


def _patterns(raw: dict[str, Any], name: str, read: Callable[[Any, str], Value]) -> dict[str, Value]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise _wrong(name, value, "an object that maps names of modules to numbers")
    for pattern in value:
        if not _MODULE.fullmatch(pattern):
            raise _wrong(f"{name}'s key", pattern, "names that modules end with, or a whole one after ^")
    return {pattern: read(found, f"{name}.{printable(pattern)}") for pattern, found in value.items()}


def _targets(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str) or value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong("target_modules", value, "a list of names, or one pattern")
    return tuple(sorted(value))


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_RANK:
        raise _wrong(name, value, f"an integer from 1 to {_MAX_RANK}")
    return value


def _alpha(value: Any, name: str) -> float:
    # llama.cpp reads 0 as "no scale".
    if type(value) not in (int, float) or not _MIN_ALPHA <= value <= _MAX_ALPHA:
        raise _wrong(name, value, f"a number from {_MIN_ALPHA:g} to {_MAX_ALPHA:g}")
    return float(value)


def _flag(raw: dict[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _wrong(name: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(f"{FILE}: {name} is {printable(repr(value))}, allowed is {allowed}")
