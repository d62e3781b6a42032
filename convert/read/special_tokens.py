"""The special tokens of a checkpoint, and which of them encoding adds (upstream: gguf-py `SpecialVocab`)."""

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, printable
from .config import SPECIAL_TOKENS

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
R1_BOS = "<｜begin▁of▁sentence｜>"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """ids: by kind (bos, eos, unk, sep, pad, mask); adds: for bos, eos and sep, whether encoding adds it."""

    ids: dict[str, int]
    adds: dict[str, bool]


def wrong(field: str, value: Any, allowed: str) -> CheckpointError:
    """The error for a field of tokenizer.json."""
    return CheckpointError(f"{FILE}: {field} is {printable(repr(value), 100)}, allowed is {allowed}")


def read_special_tokens(
    raw: dict[str, Any], config: dict[str, Any], ids_by_text: dict[str, int], fallback_ids: dict[str, int]
) -> SpecialTokens:
    """From tokenizer_config.json (`config`) by text, then from config.json (`fallback_ids`); the first known wins.

    Raises CheckpointError without an end token (llama.cpp would take token 11 for it: llama.cpp issue 7898), and where
    the two files disagree about what encoding adds.
    """
    processors = _processors(raw)
    texts = {kind: _token_text(config, kind) for kind in SPECIAL_TOKENS}
    # Encoders of the BERT kind call their first and last token cls and sep.
    texts["bos"] = texts["bos"] or _token_text(config, "cls") or _first_of_template(processors)
    texts["eos"] = texts["eos"] or texts["sep"]
    ids: dict[str, int] = {}
    for kind, text in texts.items():
        token_id = ids_by_text.get(text) if text is not None else None
        token_id = fallback_ids.get(kind) if token_id is None else token_id
        if token_id is not None:
            ids[kind] = token_id
    adds = _adds(processors, config, texts["bos"], texts["eos"])
    if "eos" not in ids:
        raise CheckpointError(f"{CONFIG_FILE}: no eos_token that {FILE} knows, and no eos_token_id in config.json")
    if adds.get("bos") and "bos" not in ids:
        raise CheckpointError(f"{CONFIG_FILE}: encoding adds a first token, but no bos_token is known")
    return SpecialTokens(ids, adds)


def _adds(
    processors: list[dict[str, Any]], config: dict[str, Any], bos: str | None, eos: str | None
) -> dict[str, bool]:
    """From the post-processor, else from tokenizer_config.json."""
    adds: dict[str, bool] = {}
    for processor in processors:
        kind = processor.get("type")
        if kind == "ByteLevel":
            adds.setdefault("bos", False)
            adds.setdefault("eos", False)
        elif kind == "TemplateProcessing":
            adds |= _template_adds(processor, bos, eos)
        elif kind is not None:
            raise wrong("post_processor.type", kind, "ByteLevel or TemplateProcessing")
    for name in ("bos", "eos", "sep"):
        stated = config.get(f"add_{name}_token")
        if isinstance(stated, bool):
            adds.setdefault(name, stated)
    if config.get("add_bos_token") is True and bos == R1_BOS:
        # transformers loads R1-Distill with its Llama tokenizer, which follows add_bos_token and not tokenizer.json.
        adds["bos"] = True
    return adds


def _template_adds(processor: dict[str, Any], bos: str | None, eos: str | None) -> dict[str, bool]:
    single, pair = _template(processor, "single"), _template(processor, "pair")
    adds: dict[str, bool] = {}
    first = _special_at(single, 0) if len(single) > 1 else None
    last = _special_at(single, -1) if len(single) > 1 else None
    for kind, found, known in (("bos", first, bos), ("eos", last, eos)):
        if found is not None and found != known:
            raise CheckpointError(
                f"{FILE}: post_processor adds {printable(found)}, "
                f"{CONFIG_FILE} calls {printable(str(known))} the {kind}_token"
            )
        if found is not None:
            adds[kind] = True
    begin = 1 if first is not None and _special_at(pair, 0) == first else 0
    end = len(pair) - 1 if last is not None and _special_at(pair, -1) == last else len(pair)
    middle = pair[begin + 1 : end - 1]
    if middle:
        # llama.cpp has one flag for all pairs of texts: whether a separator stands between them.
        between = [_special_at(middle, i) for i in range(min(2, len(middle)))]
        adds["sep"] = any(text is not None and text == eos and last is None for text in between)
    return adds


def _processors(raw: dict[str, Any]) -> list[dict[str, Any]]:
    post = raw.get("post_processor") or {}
    processors = post.get("processors", [post]) if isinstance(post, dict) else None
    if not isinstance(processors, list) or not all(isinstance(processor, dict) for processor in processors):
        raise wrong("post_processor", post, "ByteLevel, TemplateProcessing or a Sequence of them")
    return processors


def _first_of_template(processors: list[dict[str, Any]]) -> str | None:
    for processor in processors:
        if processor.get("type") == "TemplateProcessing" and len(single := _template(processor, "single")) > 1:
            return _special_at(single, 0)
    return None


def _template(processor: dict[str, Any], field: str) -> list[Any]:
    template = processor.get(field) or []
    if not isinstance(template, list):
        raise wrong(f"post_processor.{field}", template, "a list")
    return template


def _special_at(template: list[Any], at: int) -> str | None:
    entry = template[at].get("SpecialToken") if template and isinstance(template[at], dict) else None
    text = entry.get("id") if isinstance(entry, dict) else None
    return text if isinstance(text, str) else None


def _token_text(config: dict[str, Any], kind: str) -> str | None:
    entry = config.get(f"{kind}_token")
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) and text else None
