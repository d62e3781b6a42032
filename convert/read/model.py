"""All of a checkpoint but its weights, read once."""

import re
from dataclasses import dataclass
from typing import Any

from ..agent import chat_template_fault
from ..errors import CheckpointError, escaped
from .checkpoint import Checkpoint
from .config import FILE as CONFIG_FILE
from .config import Qwen2Config, parse_config
from .tensors import ModelTensor, map_tensors
from .tokenizer import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from .tokenizer import FILE as TOKENIZER_FILE
from .tokenizer import Tokenizer, parse_tokenizer

GENERATION_FILE, CARD_FILE, TEMPLATE_FILE = "generation_config.json", "README.md", "chat_template.jinja"
FIELDS_FILE = "fields.json"
_LICENCE = re.compile(r"license:\s*(?P<quote>[\"']?)(?P<licence>[A-Za-z0-9][A-Za-z0-9._+\-]{0,63})(?P=quote)\s*(#.*)?")


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A checkpoint without its weights."""

    config: Qwen2Config
    tensors: list[ModelTensor]  # In the order of the GGUF file.
    tokenizer: Tokenizer
    chat_template: str | None  # None for a base model.
    generation: dict[str, Any]  # The content of generation_config.json.
    licence: str | None
    fields: str | None  # How a model that `train` made reads an input, as JSON; None for a chat model.
    checkpoint_tokens: int  # How many tokens the checkpoint has. The tokenizer may have a part of them.


def read_model(checkpoint: Checkpoint) -> SourceModel:
    """Raises CheckpointError for a checkpoint that is damaged, inconsistent or of another architecture."""
    config = parse_config(_required(checkpoint, CONFIG_FILE))
    tensors = map_tensors(config, checkpoint.tensors)
    tokenizer_config = checkpoint.read_object(TOKENIZER_CONFIG_FILE) or {}
    tokenizer = parse_tokenizer(
        _required(checkpoint, TOKENIZER_FILE), tokenizer_config, config.special_token_ids, config.vocab_size
    )
    return SourceModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=_chat_template(checkpoint, tokenizer_config),
        generation=checkpoint.read_object(GENERATION_FILE) or {},
        licence=_licence(checkpoint.read_text(CARD_FILE) or ""),
        fields=checkpoint.read_text(FIELDS_FILE),
        checkpoint_tokens=config.vocab_size,
    )


def _required(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    value = checkpoint.read_object(name)
    if value is None:
        raise CheckpointError(f"{name}: missing in {escaped(str(checkpoint.folder))}")
    return value


def _chat_template(checkpoint: Checkpoint, tokenizer_config: dict[str, Any]) -> str | None:
    """That of tokenizer_config.json, else of its own file, as upstream. Of several named ones, chats use `default`."""
    template, where = tokenizer_config.get("chat_template"), TOKENIZER_CONFIG_FILE
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is None:
        template, where = checkpoint.read_text(TEMPLATE_FILE), TEMPLATE_FILE
    if not template:
        return None
    fault = chat_template_fault(template) if isinstance(template, str) else "is not a text"
    if fault is not None:
        raise CheckpointError(f"{where}: chat_template cannot be used: {escaped(fault)}")
    return str(template)


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
