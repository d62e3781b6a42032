"""All of a checkpoint but its weights, read once."""

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import CheckpointError, printable
from .chat_template import ChatTemplates, read_chat_templates
from .checkpoint import Checkpoint
from .config import FILE as CONFIG_FILE
from .config import MODEL_TYPE, ModelConfig, parse_config
from .special_tokens import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from .special_tokens import FILE as TOKENIZER_FILE
from .tensors import ModelTensor, map_tensors, stray_output
from .tokenizer import Tokenizer, parse_tokenizer

GENERATION_FILE, CARD_FILE = "generation_config.json", "README.md"
_LICENCE = re.compile(r"license:\s*(?P<quote>[\"']?)(?P<licence>[A-Za-z0-9][A-Za-z0-9._+\-]{0,63})(?P=quote)\s*(#.*)?")


@dataclass(frozen=True, slots=True)
class Model:
    """tensors: in the order of the GGUF file; generation: generation_config.json; warnings: for the operator."""

    config: ModelConfig
    tensors: list[ModelTensor]
    tokenizer: Tokenizer
    templates: ChatTemplates
    generation: dict[str, Any]
    licence: str | None
    warnings: list[str]

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors)


def read_model(checkpoint: Checkpoint) -> Model:
    """Raises CheckpointError for a checkpoint that is damaged, inconsistent or of another architecture."""
    config = parse_config(_required(checkpoint, CONFIG_FILE))
    tensors = map_tensors(config, checkpoint.tensors)
    tokenizer_config = checkpoint.read_object(TOKENIZER_CONFIG_FILE) or {}
    tokenizer = parse_tokenizer(
        _required(checkpoint, TOKENIZER_FILE), tokenizer_config, config.special_token_ids, config.vocab_size
    )
    warnings = [stray_output(config, checkpoint.tensors)]
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        warnings.append(
            f"{CONFIG_FILE}: sliding_window {config.sliding_window} cannot be expressed for {MODEL_TYPE}; "
            "longer contexts will differ from transformers"
        )
    return Model(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        templates=read_chat_templates(checkpoint, tokenizer_config),
        generation=checkpoint.read_object(GENERATION_FILE) or {},
        licence=_licence(checkpoint.read_text(CARD_FILE) or ""),
        warnings=[warning for warning in warnings if warning is not None],
    )


def _required(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    value = checkpoint.read_object(name)
    if value is None:
        raise CheckpointError(f"{name}: missing in {printable(str(checkpoint.folder))}")
    return value


def _licence(card: str) -> str | None:
    """The `license:` line of the front matter (a Hub identifier such as `apache-2.0`), not lists or prose."""
    lines = card.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return None
    for line in lines[1:]:
        if line.rstrip() == "---":
            break
        if match := _LICENCE.fullmatch(line.rstrip()):
            return match["licence"]
    return None
