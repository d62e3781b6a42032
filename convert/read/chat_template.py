"""The chat templates of a checkpoint, wherever that version of transformers put them."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from ..agent import chat_template_fault
from ..errors import CheckpointError, printable
from .checkpoint import Checkpoint
from .special_tokens import CONFIG_FILE

JINJA_FILE = "chat_template.jinja"
JSON_FILE = "chat_template.json"
MORE_FOLDER = "additional_chat_templates"


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """default: the one for chats, None for a base model; named: the others (`tool_use`, `rag`, …)."""

    default: str | None
    named: dict[str, str]

    @property
    def default_sha256(self) -> str | None:
        """Hex SHA-256 of the default template as UTF-8."""
        return None if self.default is None else hashlib.sha256(self.default.encode("utf-8")).hexdigest()


def read_chat_templates(checkpoint: Checkpoint, tokenizer_config: dict[str, Any]) -> ChatTemplates:
    """Templates from tokenizer_config.json, else chat_template.jinja (and its folder of more), else chat_template.json.

    The order is upstream's. Raises CheckpointError for a template that is not text, and for a default that the agent
    cannot use; the agent never uses the others.
    """
    stated = tokenizer_config.get("chat_template")
    if stated is not None:
        return _from_value(stated, CONFIG_FILE)
    jinja = checkpoint.read_text(JINJA_FILE)
    if jinja is not None:
        folder = checkpoint.folder / MORE_FOLDER
        more = sorted(path.name for path in folder.glob("*.jinja")) if folder.is_dir() else []
        named = [
            {"name": name.removesuffix(".jinja"), "template": checkpoint.read_text(f"{MORE_FOLDER}/{name}")}
            for name in more
        ]
        return _from_value([{"name": "default", "template": jinja}, *named], JINJA_FILE)
    wrapped = checkpoint.read_object(JSON_FILE)
    value = None if wrapped is None else wrapped.get("chat_template")
    return ChatTemplates(None, {}) if value is None else _from_value(value, JSON_FILE)


def _from_value(value: Any, where: str) -> ChatTemplates:
    choices = [{"name": "default", "template": value}] if isinstance(value, str) else value
    default, named = None, dict[str, str]()
    for choice in choices if isinstance(choices, list) else [None]:
        name, text = (choice.get("name"), choice.get("template")) if isinstance(choice, dict) else (None, None)
        if not isinstance(name, str) or not name.isprintable() or not name or not isinstance(text, str):
            raise CheckpointError(f"{where}: chat_template must be a text, or a list of objects with name and template")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise CheckpointError(f"{where}: chat_template {printable(name)} holds half a surrogate pair") from None
        if name == "default":
            default = text
        else:
            # The name becomes part of a GGUF key.
            named[re.sub(r"[^A-Za-z0-9]", "_", name)] = text
    if default and (fault := chat_template_fault(default)) is not None:
        raise CheckpointError(f"{where}: chat_template default cannot be used: {printable(fault)}")
    return ChatTemplates(default or None, named)
